"""Rows of a person's file, each with its line; what can be read in two ways is refused."""

import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from mlux.errors import PromptError

Row = tuple[int, Any]
"""The line at which a row begins, counted from 1, and what it holds."""


class Number(str):
    """A JSON number that Python would write otherwise, as it stands in the file: 3.10, 1e3."""

    __slots__ = ()

    def __repr__(self) -> str:
        """The number, not a text in quotes."""
        return str(self)


def read(path: Path, what: str = "prompts") -> str:
    """The text of a file, its line ends as they are.

    Raises:
        PromptError: If it cannot be read or is not UTF-8.
    """
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise PromptError(f"Cannot read {what} from {str(path)!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PromptError(f"{path}, line {line}: it is not UTF-8 text.") from error


def rows(text: str, suffix: str, name: str) -> list[Row]:
    """What a file of prompts holds, row by row.

    Args:
        text: Its text.
        suffix: `.txt`, `.csv`, `.jsonl` or `.json`.
        name: Its name, for the messages.

    Raises:
        PromptError: With file and line, if a row cannot be read or could be read in two ways.
    """
    if suffix == ".txt":
        lines = enumerate(re.split(r"\r\n|\r|\n", text), start=1)
        return [(line, {"text": content}) for line, content in lines if content.strip()]
    if suffix == ".csv":
        return list(table(text, name))
    if suffix == ".jsonl":
        lines = enumerate(text.split("\n"), start=1)
        return [
            (line, _decoded(content, name, line))
            for line, content in lines
            if content.strip(" \t\r")
        ]
    return list(_items(text, name))


def table(text: str, name: str) -> Iterator[Row]:
    """The rows of a CSV by column; an empty cell is left out.

    Raises:
        PromptError: If two columns have one name, or a row is not as long as the header.
    """
    columns: list[str] | None = None
    for line, cells in _lines_of_cells(text, name):
        if columns is None:
            columns = cells
            _check_header(columns, f"{name}, line {line}")
            continue
        if len(cells) != len(columns):
            raise PromptError(
                f"{name}, line {line}: {len(cells)} fields under a header of {len(columns)}; "
                "put a field that holds a comma in quotes, and leave none out."
            )
        yield line, {column: cell for column, cell in zip(columns, cells, strict=True) if cell}


def header(text: str, name: str) -> list[Row]:
    """The first row of a CSV: its columns without anything in them; none of an empty file."""
    lines = _lines_of_cells(text, name)
    return [(line, dict.fromkeys(cells)) for line, cells in islice(lines, 1)]


def document(text: str, name: str) -> Any:
    """A whole JSON document.

    Raises:
        PromptError: If it is none, names a key twice, or has a number that is not finite.
    """
    return _decoded(text, name, 1)


def _lines_of_cells(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    with _long_fields():
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise PromptError(f"{name}, line {line}: {error}.") from error
            if cells is None:
                return
            if cells:
                yield line, cells


@contextmanager
def _long_fields() -> Iterator[None]:
    """Python's csv refuses a field over 131,072 characters, also in a column that nobody reads."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _check_header(header: Sequence[str], where: str) -> None:
    for number, column in enumerate(header, start=1):
        if not column:
            raise PromptError(f"{where}: column {number} has no name.")
        if column in header[: number - 1]:
            raise PromptError(f"{where}: two columns are named {column!r}; rename one of them.")


def _items(text: str, name: str) -> Iterator[Row]:
    """The items of a JSON list, each with the line at which it begins."""
    place = _next(text, 0)
    if text[place : place + 1] != "[":
        found = document(text, name)
        kind = "an object" if isinstance(found, dict) else f"{found!r:.60}"
        tasks = f" Tasks go in as -p tasks={name}." if isinstance(found, dict) else ""
        raise PromptError(f"{name}, line 1: this is {kind}; expected a list of prompts.{tasks}")
    line, counted = 1, 0
    place = _next(text, place + 1)
    closed = text[place : place + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, place), place
        item, place = _item(text, place, name, line)
        yield line, item
        place = _next(text, place)
        mark = text[place : place + 1]
        closed = mark == "]"
        if mark not in ("]", ",") or not mark:
            at = line + text.count("\n", counted, place)
            raise PromptError(f"{name}, line {at}: expected a comma or ] after a prompt.")
        place = place if closed else _next(text, place + 1)
    if _next(text, place + 1) != len(text):
        at = line + text.count("\n", counted, place)
        raise PromptError(f"{name}, line {at}: there is something behind the list.")


def _next(text: str, place: int) -> int:
    """Where the next thing stands that is not JSON's white space."""
    match = _SPACE.match(text, place)
    return place if match is None else match.end()


def _item(text: str, place: int, name: str, line: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, place)
    except json.JSONDecodeError as error:
        raise PromptError(f"{name}, line {error.lineno}: {_reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{name}, line {line}: {_reason(error)}") from error


def _decoded(text: str, name: str, line: int) -> Any:
    """One JSON document that begins at a line of a file."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise PromptError(f"{name}, line {line + error.lineno - 1}: {_reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{name}, line {line}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON, {error.msg[:1].lower()}{error.msg[1:]} at column {error.colno}."
    if isinstance(error, RecursionError):
        return "it is nested too deeply."
    return f"{error}."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands there twice; leave one of them out")
    return found


def _whole(written: str) -> Any:
    if len(written) > 4300:  # what Python itself refuses to read
        raise ValueError(f"a number of {len(written)} digits is too long")
    number = int(written)
    return number if str(number) == written else Number(written)


def _no_number(written: str) -> Any:
    raise ValueError(f"{written} is no value of JSON; leave it out, or write it in quotes")


_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Number, parse_int=_whole, parse_constant=_no_number
)
