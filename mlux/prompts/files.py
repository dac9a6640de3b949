"""Prompt sets that ship with mlux, and those in a user's `.txt`, `.csv`, `.jsonl` or `.json`."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mlux.errors import PromptError, UnknownNameError
from mlux.prompts import reading
from mlux.prompts.reading import Row
from mlux.prompts.values import TEMPLATES, Prompt, PromptSet

SUFFIXES = (".txt", ".csv", ".jsonl", ".json")


@cache
def shipped() -> dict[str, str]:
    """The prompt sets that come with mlux: name → what it is."""
    index = json.loads(_shipped_folder().joinpath("index.json").read_text("utf-8"))
    return {name: entry["description"] for name, entry in index.items()}


def load(reference: str | Path, columns: Mapping[str, str] | None = None) -> PromptSet:
    """A shipped prompt set by name, or a file of prompts.

    Args:
        reference: A name of `shipped()`, or the path of a `.txt` (one prompt a line), `.csv`,
            `.jsonl` or `.json` file whose columns are the attributes of `Prompt`. `ioi:16` and
            `mine.csv:16` are the first 16 prompts.
        columns: Role → the column of the file that holds it, where they have other names. Columns
            that are no roles are then left alone, and a number is the text that stands there.

    Example:
        >>> load("ioi:2").prompts[0].answer
        'george'

    Raises:
        UnknownNameError: If it is neither, or the file has no such column.
        PromptError: If the file holds no prompts, something that is not a prompt, or what could be
            read in two ways: a key or a row that is there twice, a row longer than the header.
    """
    if not isinstance(reference, str | Path):
        raise PromptError(
            f"The prompts are of type {type(reference).__name__}; expected the name of a set, a "
            "file, or a PromptSet(name=…, prompts=(Prompt(text=…), …))."
        )
    name = str(reference)
    if match := re.fullmatch(r"(.+):(\d+)", name):
        return load(match[1], columns).first(int(match[2]))
    if name in shipped() and columns is None:
        resource = _shipped_folder().joinpath(f"{name}.jsonl")
        rows = reading.rows(resource.read_text("utf-8"), ".jsonl", name)
        return _prompt_set(name, rows, name, description=shipped()[name])
    path = Path(reference)
    if path.suffix.lower() not in SUFFIXES:
        if path.exists():
            raise PromptError(
                f"Cannot read prompts from {name!r}: expected one of {' '.join(SUFFIXES)}."
            )
        raise UnknownNameError("prompt set", name, shipped())
    suffix = path.suffix.lower()
    text = reading.read(path)
    rows = reading.rows(text, suffix, name)
    named = [*reading.header(text, name), *rows] if suffix == ".csv" else rows
    if columns is None:
        _check_roles(named, name)
    else:
        known = {str(key) for _, row in named if isinstance(row, Mapping) for key in row}
        for column in columns.values():
            if known and column not in known:
                raise UnknownNameError(f"column of {name}", column, known)
        rows = [(line, _renamed(row, columns, f"{name}, line {line}")) for line, row in rows]
    return _prompt_set(path.stem, rows, name)


def check(prompts: PromptSet) -> None:
    """Holds a set that was made in Python to what a file may say, so that a file can hold it.

    Raises:
        PromptError: If a prompt has no text or is there twice, or a role is empty or not text.
    """
    first: dict[Prompt, int] = {}
    for number, prompt in enumerate(prompts.prompts, start=1):
        _check_types(asdict(prompt), f"prompt {number} of {prompts.name!r}")
        if prompt in first:
            raise PromptError(
                f"prompt {number} of {prompts.name!r}: the same prompt as {first[prompt]}; "
                "leave one of them out."
            )
        first[prompt] = number


def save(prompts: PromptSet, path: str | Path) -> None:
    """Writes prompts to a file that `load` reads: `.jsonl`, `.json` or `.csv`.

    Args:
        prompts: The prompts.
        path: Where to; what is there is replaced.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(load("ioi:2"), f"{folder}/two.csv")
        ...     load(f"{folder}/two.csv").prompts == load("ioi:2").prompts
        True

    Raises:
        PromptError: If the file cannot be written, or its format cannot hold these prompts.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    records = [_record(prompt) for prompt in prompts.prompts]
    if suffix == ".csv" and any("token_ids" in record for record in records):
        raise PromptError("A .csv has no place for token ids; write a .jsonl or .json.")
    if suffix == ".jsonl":
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    elif suffix == ".json":
        text = json.dumps(records, ensure_ascii=False, indent=1) + "\n"
    elif suffix == ".csv":
        text = _table(records)
    else:
        raise PromptError(f"Cannot write prompts to {str(path)!r}: expected .jsonl .json .csv.")
    try:
        path.write_text(text, "utf-8", newline="")
    except OSError as error:
        raise PromptError(f"Cannot write prompts to {str(path)!r}: {error.strerror}.") from error


def _record(prompt: Prompt) -> dict[str, Any]:
    """The roles that a prompt has."""
    filled = {role: value for role, value in asdict(prompt).items() if value is not None}
    if prompt.template == TEMPLATES[0]:
        del filled["template"]
    return filled


def _table(records: Sequence[Mapping[str, Any]]) -> str:
    known = [field.name for field in fields(Prompt)]
    used = [role for role in known if any(role in record for record in records)]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, used, restval="")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def _check_roles(rows: Sequence[Row], name: str) -> None:
    """Raises PromptError if a column or key is no role; where the text is not found, says how."""
    known = [field.name for field in fields(Prompt)]
    for line, row in rows:
        for key in row if isinstance(row, Mapping) else ():
            if key in known:
                continue
            fault = UnknownNameError("prompt role", str(key), known)
            if {"x", "y"} <= row.keys():
                raise PromptError(
                    f"{name}, line {line}: these are pairs of tasks, no prompts. Tasks go in as "
                    f"-p tasks={name}."
                )
            role = "text" if "text" not in row else "answer" if "answer" not in row else "label"
            raise PromptError(
                f"{name}, line {line}: {fault} For columns of other names, say which holds what: "
                f"--columns {role}={key} (columns={{{role!r}: {key!r}}})."
            )


def _renamed(record: Any, columns: Mapping[str, str], where: str) -> Any:
    """A record by roles: the columns that were named, and those that are roles already."""
    if not isinstance(record, Mapping):
        return record
    roles = [field.name for field in fields(Prompt)]
    for role, column in columns.items():
        if role not in roles:
            raise UnknownNameError("prompt role", role, roles)
        if column not in record and role == "text":
            raise PromptError(f"{where}: it has no text, which is in the column {column!r}.")
    taken = {*columns.values()}
    found = {key: record[key] for key in roles if key in record and key not in taken}
    found |= {role: record[column] for role, column in columns.items() if column in record}
    return {
        key: str(value) if type(value) in (int, reading.Number) else value
        for key, value in found.items()
        if value is not None
    }


def _shipped_folder() -> Any:
    return files("mlux.demo").joinpath("prompts")


def _prompt_set(name: str, rows: Sequence[Row], file: str, description: str = "") -> PromptSet:
    prompts: dict[Prompt, int] = {}
    repeated: list[tuple[int, int]] = []
    for line, record in rows:
        prompt = _prompt(record, f"{file}, line {line}")
        if prompt in prompts:
            repeated.append((line, prompts[prompt]))
        prompts.setdefault(prompt, line)
    if not prompts:
        raise PromptError(f"The prompt set {name!r} is empty; give it at least one prompt.")
    if repeated:
        line, first = repeated[0]
        more = f" So are {len(repeated) - 1} more rows." if len(repeated) > 1 else ""
        raise PromptError(
            f"{file}, line {line}: the same prompt as in line {first}; leave one of them out.{more}"
        )
    return PromptSet(name=name, prompts=tuple(prompts), description=description)


def _prompt(record: object, where: str) -> Prompt:
    if isinstance(record, str):
        record = {"text": record}
    if not isinstance(record, Mapping):
        raise PromptError(f"{where}: {_shown(record)} is neither a text nor an object with a text.")
    known = [field.name for field in fields(Prompt)]
    for key in record:
        if key not in known:
            raise PromptError(f"{where}: {UnknownNameError('prompt role', str(key), known)}")
    values = dict(record)
    if isinstance(values.get("token_ids"), list):
        values["token_ids"] = tuple(values["token_ids"])
    _check_types(values, where)
    return Prompt(**values)


def _check_types(values: Mapping[str, Any], where: str) -> None:
    if values.get("text") in (None, ""):
        raise PromptError(f"{where}: it has no text.")
    if values.get("template", "raw") not in TEMPLATES:
        raise PromptError(f"{where}: template is {_shown(values['template'])}, not raw or chat.")
    ids = values.get("token_ids")
    if ids is not None and not (
        isinstance(ids, tuple) and ids and all(type(i) is int and i >= 0 for i in ids)
    ):
        raise PromptError(f"{where}: token_ids is {_shown(ids)}, not a list of token ids.")
    for key, value in values.items():
        if key == "token_ids" or value is None:
            continue
        if not isinstance(value, str) or isinstance(value, reading.Number):
            raise PromptError(f"{where}: {key} is {_shown(value)}, not text.")
        if not value:
            raise PromptError(f"{where}: {key} is empty; leave it out instead.")
        if "\0" in value:
            raise PromptError(f"{where}: {key} has a null character, which no server can store.")
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise PromptError(f"{where}: {key} has half a character, which no tokenizer can read.")


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"
