"""2,000 made-up files, most of them faulty: each is refused in one line or read as written."""

import csv
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlux import prompts
from mlux.errors import MluxError

N_FILES = 2000
ROLES = ("text", "corrupted", "answer", "wrong_answer", "subject", "label")
COLUMNS = {"text": "question", "answer": "target"}
Record = dict[str, Any]


class RefusedError(Exception):
    """What an independent, strict reader says of a file."""


def made_record(rng: random.Random, number: int) -> Record:
    """A prompt of the roles, different from those of other numbers, with awkward texts."""
    odd = ["é", "a\u2028b", 'say "x"', "a, b", " ", "日本", "tab\t.", "NaN", "1e3", "0", "\\"]
    record = {"text": f"{rng.choice(odd)} {number} {rng.choice(odd)}"}
    for role in rng.sample(ROLES[1:], rng.randint(0, 3)):
        record[role] = rng.choice(odd)
    return record


def as_csv(records: list[Record], rng: random.Random) -> str:
    names = list(dict.fromkeys(key for record in records for key in record))
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerow(names)
    writer.writerows([[record.get(name, "") for name in names] for record in records])
    return out.getvalue()


def as_jsonl(records: list[Record], rng: random.Random) -> str:
    gap = rng.choice(["\n", "\r\n", "\n\n"])
    return "".join(json.dumps(r, ensure_ascii=rng.random() < 0.5) + gap for r in records)


def as_json(records: list[Record], rng: random.Random) -> str:
    return json.dumps(records, indent=rng.choice([None, 0, 2]), ensure_ascii=False)


def as_txt(records: list[Record], rng: random.Random) -> str:
    return "".join(str(record["text"]) + rng.choice(["\n", "\r\n", "\n\n"]) for record in records)


WRITERS = {".csv": as_csv, ".jsonl": as_jsonl, ".json": as_json, ".txt": as_txt}


def insert(text: str, rng: random.Random, what: str) -> str:
    place = rng.randint(0, len(text))
    return text[:place] + what + text[place:]


def on_a_line(change: Callable[[str], str]) -> Callable[[str, random.Random], str]:
    def fault(text: str, rng: random.Random) -> str:
        lines = text.split("\n")
        place = rng.randrange(len(lines))
        lines[place] = change(lines[place])
        return "\n".join(lines)

    return fault


def twice_a_key(text: str, rng: random.Random) -> str:
    pairs = list(re.finditer(r'"(\w+)": ', text))
    return (
        text if not pairs else insert_at(text, rng.choice(pairs), '"answer": "1", "answer": "2", ')
    )


def insert_at(text: str, match: re.Match[str], what: str) -> str:
    return text[: match.start()] + what + text[match.start() :]


def a_value(text: str, rng: random.Random) -> str:
    values = list(re.finditer(r': ("(?:[^"\\]|\\.)*")', text))
    odd = ["NaN", "-Infinity", "3.10", "1e999", "-0", "true", "null", "[]", '{"a": 1}', "12"]
    if not values:
        return text
    match = rng.choice(values)
    return text[: match.start(1)] + rng.choice(odd) + text[match.end(1) :]


FAULTS: dict[str, Callable[[str, random.Random], str]] = {
    "none": lambda text, rng: text,
    "a field too many": on_a_line(lambda line: line.rstrip("\r") + ",more"),
    "a field too few": on_a_line(lambda line: line.rpartition(",")[0]),
    "a column twice": lambda text, rng: "\n".join(
        line.rstrip("\r") + "," + line.rstrip("\r").partition(",")[0] for line in text.split("\n")
    ),
    "a line twice": lambda text, rng: text + rng.choice(text.split("\n")) + "\n",
    "a quote": lambda text, rng: insert(text, rng, '"'),
    "a brace": lambda text, rng: insert(text, rng, rng.choice("{}[],:")),
    "cut off": lambda text, rng: text[: rng.randint(0, len(text))],
    "a null character": lambda text, rng: insert(text, rng, "\0"),
    "a return": lambda text, rng: insert(text, rng, "\r"),
    "a key twice": twice_a_key,
    "another value": a_value,
    "another key": lambda text, rng: text.replace("answer", "anwser", 1),
    "half a character": lambda text, rng: text.replace("é", "\\ud800", 1),
    "a long field": lambda text, rng: text.replace("é", "é" * 140_000, 1),
}


def strictly_read(content: bytes, suffix: str, columns: dict[str, str] | None) -> list[Record]:
    """The prompts of a file, read with Python's own modules alone.

    Raises:
        RefusedError: If the file could be read in more than one way, or is none of prompts.
    """
    text = content.decode("utf-8-sig")
    rows: list[Any]
    named: set[str] = set()
    if suffix == ".txt":
        rows = [{"text": line} for line in io.StringIO(text, newline=None) if line.strip()]
        rows = [{"text": row["text"].removesuffix("\n")} for row in rows]
    elif suffix == ".csv":
        csv.field_size_limit(10**9)
        try:
            lines = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
        except csv.Error as error:
            raise RefusedError from error
        finally:
            csv.field_size_limit(131_072)
        head = lines[0] if lines else []
        named = {*head}
        if len(named) != len(head) or "" in named or any(len(row) != len(head) for row in lines):
            raise RefusedError
        rows = [{k: v for k, v in zip(head, row, strict=True) if v} for row in lines[1:]]
    else:
        options: dict[str, Any] = {
            "object_pairs_hook": _once,
            "parse_constant": _never,
            "parse_float": lambda written: ("number", written),
            "parse_int": lambda written: ("number", written),
        }
        try:
            if suffix == ".json":
                rows = json.loads(text, **options)
            else:
                lines_ = [line for line in text.split("\n") if line.strip(" \t\r")]
                rows = [json.loads(line, **options) for line in lines_]
        except ValueError as error:
            raise RefusedError from error
        if not isinstance(rows, list):
            raise RefusedError
    rows = [{"text": row} if isinstance(row, str) else row for row in rows]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise RefusedError
    named |= {key for row in rows for key in row}
    if columns is None and named - {*ROLES, "template", "token_ids"}:
        raise RefusedError
    if columns is not None:
        if {*columns.values()} - named:
            raise RefusedError
        rows = [_by_role(row, columns) for row in rows]
    read = [{k: v for k, v in row.items() if v is not None} for row in rows]
    for row in read:
        for value in row.values():
            if not isinstance(value, str) or not value or "\0" in value or "\ud800" in value:
                raise RefusedError
        if "text" not in row or row.get("template", "raw") not in ("raw", "chat"):
            raise RefusedError
    if any(row in read[:number] for number, row in enumerate(read)):
        raise RefusedError
    return read


def _by_role(row: Record, columns: dict[str, str]) -> Record:
    named = {role: row[column] for role, column in columns.items() if column in row}
    others = {role: row[role] for role in ROLES if role in row and role not in named}
    return {
        role: value[1] if isinstance(value, tuple) else value
        for role, value in (others | named).items()
    }


def _once(pairs: list[tuple[str, Any]]) -> Record:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError
    return dict(pairs)


def _never(constant: str) -> None:
    raise ValueError(constant)


def test_a_file_is_read_as_it_is_written_or_refused_with_its_line(tmp_path: Path) -> None:
    rng = random.Random(11)
    kinds = [(suffix, fault) for suffix in WRITERS for fault in FAULTS]
    outcomes: dict[tuple[str, str], set[str]] = {}
    for number in range(N_FILES):
        suffix, fault = kinds[number % len(kinds)]
        columns = None if suffix == ".txt" else rng.choice([None, COLUMNS])
        records = [made_record(rng, i) for i in range(rng.randint(1, 5))]
        if columns is not None:
            records = [{columns.get(k, k): v for k, v in r.items()} for r in records]
            records[0] |= {"target": "t", "extra": rng.choice(["x", "y" * 140_000])}
        text = FAULTS[fault](WRITERS[suffix](records, rng), rng)
        path = tmp_path / f"f{number}{suffix}"
        content = ("\ufeff" * (rng.random() < 0.2) + text).encode()
        path.write_bytes(content)
        what = f"file {number}: {fault} in {suffix}, columns {columns}\n{text[:2000]!r}"
        try:
            expected = strictly_read(content, suffix, columns)
        except RefusedError:
            with pytest.raises(MluxError) as caught:
                prompts.load(path, columns)
            message = str(caught.value)
            assert "\n" not in message, what
            if not any(known in message for known in ("is empty; give it", "No column of")):
                found = re.search(rf"^{re.escape(str(path))}, line (\d+): ", message)
                assert found, f"{message}\n{what}"
                assert 1 <= int(found[1]) <= len(re.split(r"\r\n|\r|\n", text)), what
            outcomes.setdefault((suffix, fault), set()).add("refused")
        else:
            loaded = prompts.load(path, columns).prompts
            assert [
                {role: getattr(p, role) for role in ROLES if getattr(p, role) is not None}
                for p in loaded
            ] == [{k: v for k, v in row.items() if k in ROLES} for row in expected], what
            outcomes.setdefault((suffix, fault), set()).add("read")
        path.unlink()
    assert all(outcomes[suffix, "none"] == {"read"} for suffix in WRITERS)
    assert all("refused" in outcomes[suffix, "cut off"] for suffix in (".csv", ".json", ".jsonl"))
    assert outcomes[".csv", "a column twice"] == {"refused"}
    assert outcomes[".csv", "a field too many"] == {"refused"}
    assert all("read" in outcomes[suffix, "a long field"] for suffix in WRITERS)
    assert outcomes[".jsonl", "a key twice"] == outcomes[".json", "a key twice"] == {"refused"}
