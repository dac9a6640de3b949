"""Tasks as pairs of a query and its answer: those of the built-in model, or a user's own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from mlux.errors import PromptError
from mlux.prompts import reading

Pair = tuple[str, str]
"""A query and its answer."""

SPLITS = ("train", "held_out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Pairs of one relation.

    Attributes:
        train: Pairs that prompts may show as examples.
        held_out: Pairs that prompts only ask for, never show. Without any, each pair is asked for
            in prompts that do not show it.
    """

    train: tuple[Pair, ...]
    held_out: tuple[Pair, ...] = ()

    @property
    def queries(self) -> tuple[Pair, ...]:
        """The pairs that are asked for."""
        return self.held_out or self.train


@cache
def demo_tasks() -> dict[str, Task]:
    """The word relations of the built-in model; what is held out it never saw in few-shot form.

    Example:
        >>> demo_tasks()["capital"].held_out[0]
        ('poland', 'warsaw')
    """
    text = files("mlux.demo").joinpath("tasks.json").read_text("utf-8")
    return _tasks(json.loads(text), "tasks.json")


def load_tasks(path: str | Path) -> dict[str, Task]:
    """Tasks from a file of one's own.

    Args:
        path: A `.json` file, {task: [[x, y], …]} or {task: {"train": [[x, y], …], "held_out":
            [[x, y], …]}}; or a `.csv` file with the columns task, x, y and perhaps split, which is
            `train` or `held_out`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "own.json"
        ...     _ = path.write_text('{"double": [["1", "2"], ["2", "4"], ["3", "6"]]}')
        ...     load_tasks(path)["double"].train[1]
        ('2', '4')

    Raises:
        PromptError: If it cannot be read, or holds something else.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".json", ".csv"):
        raise PromptError(f"Cannot read tasks from {str(path)!r}: expected .json or .csv.")
    text = reading.read(path, "tasks")
    if suffix == ".json":
        return _tasks(reading.document(text, str(path)), path.name)
    return _tasks(_from_table(text, str(path)), path.name)


def _from_table(text: str, name: str) -> dict[str, dict[str, list[list[Any]]]]:
    columns = [column for _, row in reading.header(text, name) for column in row]
    missing = [column for column in ("task", "x", "y") if column not in columns]
    if missing:
        raise PromptError(f"{name} has no column {missing[0]!r}; tasks need task, x and y.")
    tasks: dict[str, dict[str, list[list[Any]]]] = {}
    for line, row in reading.table(text, name):
        lacking = [column for column in ("task", "x", "y") if column not in row]
        if lacking:
            raise PromptError(f"{name}, line {line}: {lacking[0]} is empty.")
        split = row.get("split", "train")
        pairs = tasks.setdefault(row["task"], {}).setdefault(split, [])
        if [row["x"], row["y"]] in pairs:
            raise PromptError(f"{name}, line {line}: a pair that its task has already.")
        pairs.append([row["x"], row["y"]])
    return tasks


def _tasks(raw: object, name: str) -> dict[str, Task]:
    if not isinstance(raw, Mapping) or not raw:
        raise PromptError(f"{name} holds no tasks; expected an object of task: pairs.")
    return {task: _task(content, f"{name}: task {task!r}") for task, content in raw.items()}


def _task(content: object, where: str) -> Task:
    splits = content if isinstance(content, Mapping) else {"train": content}
    for split in splits:
        if split not in SPLITS:
            raise PromptError(f"{where} has {split!r}; expected {' or '.join(SPLITS)}.")
    return Task(
        train=_pairs(splits.get("train", []), where),
        held_out=_pairs(splits.get("held_out", []), where),
    )


def _pairs(content: object, where: str) -> tuple[Pair, ...]:
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise PromptError(f"{where} is {content!r}; expected a list of pairs of texts.")
    for pair in content:
        if not (
            isinstance(pair, Sequence)
            and len(pair) == 2
            and all(type(word) is str and word for word in pair)
        ):
            raise PromptError(f"{where} has {pair!r}; expected a pair of texts, [query, answer].")
    pairs = [(x, y) for x, y in content]
    for number, pair in enumerate(pairs):
        if pair in pairs[:number]:
            raise PromptError(f"{where} has {pair!r} twice; leave one of them out.")
    return tuple(pairs)
