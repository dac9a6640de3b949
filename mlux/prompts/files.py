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
            that are no roles are then left alone, and numbers are taken as text.

    Example:
        >>> load("ioi:2").prompts[0].answer
        'george'

    Raises:
        UnknownNameError: If it is neither, or the file has no such column.
        PromptError: If the file holds no prompts, or something that is not a prompt.
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
        records = _parse(resource.read_text("utf-8"), ".jsonl", name)
        return _prompt_set(name, records, description=shipped()[name])
    path = Path(reference)
    if path.suffix.lower() not in SUFFIXES:
        if path.exists():
            raise PromptError(
                f"Cannot read prompts from {name!r}: expected one of {' '.join(SUFFIXES)}."
            )
        raise UnknownNameError("prompt set", name, shipped())
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise PromptError(f"Cannot read prompts from {name!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise PromptError(f"Cannot read prompts from {name!r}: it is not UTF-8 text.") from error
    records = _parse(text, path.suffix.lower(), name)
    if columns is not None:
        known = {str(key) for record in records if isinstance(record, Mapping) for key in record}
        for column in columns.values():
            if known and column not in known:
                raise UnknownNameError(f"column of {name}", column, known)
        records = [_renamed(record, columns, name) for record in records]
    return _prompt_set(path.stem, records)


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


def _renamed(record: Any, columns: Mapping[str, str], name: str) -> Any:
    """A record by roles: the columns that were named, and those that are roles already."""
    if not isinstance(record, Mapping):
        return record
    roles = [field.name for field in fields(Prompt)]
    for role, column in columns.items():
        if role not in roles:
            raise UnknownNameError("prompt role", role, roles)
        if column not in record and role == "text":
            raise UnknownNameError(f"column of {name}", column, map(str, record))
    taken = {*columns.values()}
    found = {key: record[key] for key in roles if key in record and key not in taken}
    found |= {role: record[column] for role, column in columns.items() if column in record}
    numbers = {k: v for k, v in found.items() if type(v) in (int, float)}
    return {k: v for k, v in found.items() if v is not None} | {
        key: str(value) for key, value in numbers.items()
    }


def _shipped_folder() -> Any:
    return files("mlux.demo").joinpath("prompts")


def _parse(text: str, suffix: str, name: str) -> list[Mapping[str, Any]]:
    try:
        if suffix == ".txt":
            return [{"text": line} for line in _lines(text) if line.strip()]
        if suffix == ".csv":
            return [
                {key: value for key, value in row.items() if value}
                for row in csv.DictReader(io.StringIO(text, newline=""), restkey="?", strict=True)
            ]
        if suffix == ".jsonl":
            return [json.loads(line) for line in _lines(text) if line.strip()]
        records = json.loads(text)
    except (ValueError, csv.Error, RecursionError) as error:
        raise PromptError(f"Cannot read prompts from {name!r}: {error}.") from error
    if not isinstance(records, list):
        raise PromptError(f"Cannot read prompts from {name!r}: expected a list of prompts.")
    return records


def _lines(text: str) -> list[str]:
    """The lines of a text; a line separator within a prompt, such as U+2028, is part of it."""
    return text.replace("\r\n", "\n").split("\n")


def _prompt_set(
    name: str, records: Sequence[Mapping[str, Any]], description: str = ""
) -> PromptSet:
    prompts = dict.fromkeys(
        _prompt(record, f"prompt {number} of {name!r}")
        for number, record in enumerate(records, start=1)
    )
    if not prompts:
        raise PromptError(f"The prompt set {name!r} is empty; give it at least one prompt.")
    return PromptSet(name=name, prompts=tuple(prompts), description=description)


def _prompt(record: object, where: str) -> Prompt:
    if isinstance(record, str):
        record = {"text": record}
    if not isinstance(record, Mapping):
        raise PromptError(f"{where} is {record!r}; expected text or an object with a text.")
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
    if not isinstance(values.get("text"), str) or not values["text"]:
        raise PromptError(f"{where} has no text.")
    if values.get("template", "raw") not in TEMPLATES:
        raise PromptError(f"{where}: template is {values['template']!r}, not raw or chat.")
    ids = values.get("token_ids")
    if ids is not None and not (
        isinstance(ids, tuple) and ids and all(type(i) is int and i >= 0 for i in ids)
    ):
        raise PromptError(f"{where}: token_ids is {ids!r}, not a list of token ids.")
    for key, value in values.items():
        if key == "token_ids" or value is None:
            continue
        if not isinstance(value, str):
            raise PromptError(f"{where}: {key} is {value!r}, not text.")
        if not value:
            raise PromptError(f"{where}: {key} is empty; leave it out instead.")
        if "\0" in value:
            raise PromptError(f"{where}: {key} has a null character, which no server can store.")
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise PromptError(f"{where}: {key} has half a character, which no tokenizer can read.")
