"""Prompts with roles, and the sets they come in: shipped with mlux or read from a user's file.

A prompt names its parts by role (clean text, corrupted text, answer, wrong answer, subject,
label), so that one set serves every experiment. An answer is a continuation: it is joined to the
text by one space unless one of the two brings white space of its own.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mlux.errors import PromptError, UnknownNameError

TEMPLATES = ("raw", "chat")
SUFFIXES = (".txt", ".csv", ".jsonl", ".json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt and its roles.

    Attributes:
        text: The clean prompt.
        corrupted: A prompt of as many tokens that breaks what the clean one shows.
        answer: The continuation of the clean prompt.
        wrong_answer: The continuation to tell it apart from.
        subject: The part of `text` that the prompt is about.
        label: A class, for probes and comparisons.
        template: `raw`, or `chat` if `text` is what the user of a chat says.
        token_ids: The exact ids to run, where the text alone does not give them.
    """

    text: str
    corrupted: str | None = None
    answer: str | None = None
    wrong_answer: str | None = None
    subject: str | None = None
    label: str | None = None
    template: str = "raw"
    token_ids: tuple[int, ...] | None = None

    @property
    def content_hash(self) -> str:
        """The SHA-256 of everything above, equal for equal prompts on every machine."""
        canonical = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSet:
    """A named, ordered list of different prompts."""

    name: str
    prompts: tuple[Prompt, ...]
    description: str = ""

    @property
    def content_hash(self) -> str:
        """The SHA-256 of the prompts in their order; the name does not enter."""
        return hashlib.sha256("".join(p.content_hash for p in self.prompts).encode()).hexdigest()

    def first(self, count: int) -> "PromptSet":
        """The first prompts, under a name that says how many.

        Raises:
            PromptError: If the set is smaller, or nothing is asked for.
        """
        if not 1 <= count <= len(self.prompts):
            raise PromptError(
                f"The prompt set {self.name!r} has {len(self.prompts)} prompts, not {count}."
            )
        return replace(self, name=f"{self.name}:{count}", prompts=self.prompts[:count])

    def require(self, roles: Sequence[str], experiment: str) -> None:
        """Raises PromptError unless every prompt has every one of these roles."""
        for number, prompt in enumerate(self.prompts, start=1):
            missing = [role for role in roles if getattr(prompt, role) is None]
            if missing:
                raise PromptError(
                    f"{experiment} needs {' and '.join(roles)} with every prompt; "
                    f"prompt {number} of {self.name!r} has no {missing[0]}."
                )


@cache
def shipped() -> dict[str, str]:
    """The prompt sets that come with mlux: name → what it is."""
    index = json.loads(_shipped_folder().joinpath("index.json").read_text("utf-8"))
    return {name: entry["description"] for name, entry in index.items()}


def load(reference: str | Path) -> PromptSet:
    """A shipped prompt set by name, or a file of prompts.

    Args:
        reference: A name of `shipped()`, or the path of a `.txt` (one prompt a line), `.csv`,
            `.jsonl` or `.json` file whose columns are the attributes of `Prompt`. `ioi:16` and
            `mine.csv:16` are the first 16 prompts.

    Raises:
        UnknownNameError: If it is neither.
        PromptError: If the file holds no prompts, or something that is not a prompt.
    """
    name = str(reference)
    if match := re.fullmatch(r"(.+):(\d+)", name):
        return load(match[1]).first(int(match[2]))
    if name in shipped():
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
    return _prompt_set(path.stem, _parse(text, path.suffix.lower(), name))


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
    except (json.JSONDecodeError, csv.Error, RecursionError) as error:
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
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise PromptError(f"{where}: {key} has half a character, which no tokenizer can read.")
