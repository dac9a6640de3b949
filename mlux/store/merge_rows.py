"""Rows of one notebook in another: what a run refers to is found there by its content, or filed."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from mlux.store import merge_hashes
from mlux.store.creation import free_label
from mlux.store.merge_source import CHUNK, TABLES, RefusedError, Source
from mlux.store.rows import storable
from mlux.store.session import execute_many, insert
from mlux.store.tables import Base

KEYS = {
    "experiments": ("name",),
    "metrics": ("name", "unit", "better", "description"),
    "tokenizers": ("identity_hash",),
    "tokens": ("tokenizer_id", "token_id"),
    "models": ("content_hash",),
    "prompts": ("content_hash",),
    "prompt_sets": ("name", "content_hash"),
    "conditions": ("content_hash",),
}
"""What several runs may refer to → what makes two rows of it the same, everywhere."""

PARTS = {
    "prompt_sets": ("prompt_set_items", "prompt_set_id"),
    "conditions": ("condition_values", "condition_id"),
}
"""What belongs to a row of the above, and by which column."""

OF_RUN = tuple(
    table.name
    for table in Base.metadata.sorted_tables
    if "run_id" in table.columns and table.name != "claim_runs"
)
"""What belongs to one run, each after what it refers to."""

# Texts that a model made; all other texts were checked when they came in.
_OF_A_MODEL = {("generations", "text")}
_OF_A_TOKEN = ("text", "piece", "shown")


def columns_of(table: str) -> list[str]:
    """A table's columns without the `id` that the database gives."""
    return [column.name for column in TABLES[table].columns if column.name != "id"]


def references(table: str) -> dict[str, str]:
    """Column → the table whose `id` it holds."""
    return {
        column.name: key.column.table.name
        for column in TABLES[table].columns
        for key in column.foreign_keys
        if key.column.name == "id"
    }


class Copier:
    """Copies rows from a source within one transaction of the target."""

    def __init__(self, source: Source, target: sa.Connection) -> None:
        self.source = source
        self.target = target
        self._known: dict[str, dict[int, int]] = {table: {} for table in KEYS}
        self._asked: list[str] = []

    def keys(self, table: str, ids: Iterable[int | None]) -> dict[int, int]:
        """Id there → id here of rows that several runs may refer to; what is new is filed.

        Raises:
            RefusedError: If there is no such row, or it is not what its hash says.
        """
        known = self._known[table]
        wanted = {key for key in ids if key is not None} - set(known)
        if not wanted:
            return known
        if self._asked.count(table) > 1:
            raise RefusedError(f"{self.source.location} is damaged: {table} refer to each other.")
        self._asked.append(table)
        rows = self.source.by_id(table, wanted)
        if len(rows) < len(wanted):
            raise RefusedError(f"{self.source.location} is damaged: a row of {table} is missing.")
        check_types(table, rows)
        for row in rows:
            merge_hashes.check(self.source, table, row)
        ours = self._mapped(table, rows)
        found = self._find(table, ours)
        places = [at for at, row in enumerate(ours) if self._key(table, row) not in found]
        if table == "models":
            for at in places:
                # Two notebooks may have given one label to two models.
                identity = merge_hashes.model(self.source, rows[at])
                ours[at]["label"] = free_label(self.target, identity)
                self._file(table, [ours[at]])
        new = [ours[at] for at in places]
        if table != "models":
            self._file(table, new)
        found |= self._find(table, new)
        for theirs, row in zip(rows, ours, strict=True):
            here = found.get(self._key(table, row))
            if here is None:
                raise RefusedError(f"A row of {table} was filed by another process. Merge again.")
            known[theirs["id"]] = here
        if table == "tokens":
            self._learn(ours)
        self._file_parts(table, {row["id"] for row in new})
        self._asked.pop()
        return known

    def copy(self, table: str, run: int, here: int, trials: Collection[int] | None = None) -> None:
        """Copies what belongs to a run, or to some of its trials.

        Args:
            table: One of `OF_RUN`.
            run: The run's id there.
            here: Its id here.
            trials: Only of these; None for all.
        """
        names = columns_of(table)
        order = ", ".join(column.name for column in TABLES[table].primary_key)
        query = f"SELECT {', '.join(names)} FROM {table} WHERE run_id = :run"
        wanted: list[list[int] | None] = [None]
        if trials is not None:
            query += " AND trial IN :trials"
            ordered = sorted(trials)
            wanted = [ordered[start : start + 500] for start in range(0, len(ordered), 500)]
        for some in wanted:
            given = {} if some is None else {"trials": some}
            for part in self.source.parts(f"{query} ORDER BY {order}", run=run, **given):
                self._insert(table, names, part, here)

    def _insert(self, table: str, names: list[str], rows: Sequence[Any], here: int) -> None:
        columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
        for name, column in zip(names, columns, strict=True):
            _check_type(table, name, set(map(type, column)))
        for place, name in enumerate(names):
            target = references(table).get(name)
            if name == "run_id":
                columns[place] = [here] * len(rows)
            elif target is not None:
                known = self.keys(target, set(columns[place]))
                columns[place] = [None if key is None else known[key] for key in columns[place]]
            elif (table, name) in _OF_A_MODEL:
                columns[place] = [_text(value) for value in columns[place]]
        insert(self.target, table, ", ".join(names), list(zip(*columns, strict=True)))

    def _mapped(self, table: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The rows with the ids that they refer to as they are here."""
        ours = [dict(row) for row in rows]
        for column, target in references(table).items():
            known = self.keys(target, {row[column] for row in rows})
            for row in ours:
                row[column] = None if row[column] is None else known[row[column]]
        if table == "tokens":
            for row in ours:
                row |= {name: _text(row[name]) for name in _OF_A_TOKEN}
        return ours

    @staticmethod
    def _key(table: str, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[column] for column in KEYS[table])

    def _find(self, table: str, rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], int]:
        """Key → id here of those rows that are here."""
        *first, last = KEYS[table]
        groups: dict[tuple[Any, ...], list[Any]] = {}
        for row in rows:
            groups.setdefault(tuple(row[column] for column in first), []).append(row[last])
        same = "".join(f"{column} = :{column} AND " for column in first)
        query = sa.text(f"SELECT {last}, id FROM {table} WHERE {same}{last} IN :some")
        query = query.bindparams(sa.bindparam("some", expanding=True))
        found: dict[tuple[Any, ...], int] = {}
        for group, values in groups.items():
            for start in range(0, len(values), CHUNK):
                given = dict(zip(first, group, strict=True))
                some = {"some": values[start : start + CHUNK]}
                for value, key in self.target.execute(query, given | some):
                    found[(*group, value)] = key
        return found

    def _file(self, table: str, rows: list[dict[str, Any]]) -> None:
        names = columns_of(table)
        values = [tuple(row[name] for name in names) for row in rows]
        insert(self.target, table, ", ".join(names), values, "ON CONFLICT DO NOTHING")

    def _learn(self, tokens: list[dict[str, Any]]) -> None:
        """Pieces that only the source knows, of tokens that an earlier mlux filed here."""
        rows = [
            (row["piece"], row["shown"], row["tokenizer_id"], row["token_id"])
            for row in tokens
            if row["piece"] is not None
        ]
        if rows:
            execute_many(self.target, _LEARN, rows)

    def _file_parts(self, table: str, new: set[int]) -> None:
        if table not in PARTS or not new:
            return
        part, owner = PARTS[table]
        rows = self.source.by_id(part, new, owner)
        check_types(part, rows)
        self._file(part, self._mapped(part, rows))


_LEARN = (
    "UPDATE tokens SET piece = ?, shown = ? "
    "WHERE tokenizer_id = ? AND token_id = ? AND piece IS NULL"
)


def check_types(table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raises RefusedError if a row of another notebook holds a value of the wrong type."""
    for name in rows[0] if rows else ():
        _check_type(table, name, {type(row[name]) for row in rows})


def _check_type(table: str, name: str, found: set[type]) -> None:
    column = TABLES[table].columns[name]
    allowed: set[type] = {column.type.python_type} | ({type(None)} if column.nullable else set())
    if float in allowed:
        allowed.add(int)
    if wrong := found - allowed:
        raise RefusedError(f"{table} has a {wrong.pop().__name__} as {name}.")


def _text(value: Any) -> Any:
    return storable(value) if isinstance(value, str) else value
