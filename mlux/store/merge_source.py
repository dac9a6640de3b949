"""The notebook that a merge reads: in one transaction, and as values that nobody vouches for."""

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from mlux.errors import StoreError
from mlux.store import artifacts, backends, sqlite_file
from mlux.store.session import FIRST, HEAD, Store
from mlux.store.tables import Base

TABLES = Base.metadata.tables
CHUNK = 20_000


class RefusedError(StoreError):
    """Something in the source that cannot be taken; the rest of it may be good."""


class Source:
    """The notebook that is read, in one transaction that sees one state of it."""

    def __init__(self, connection: sa.Connection, location: str) -> None:
        self.connection = connection
        self.location = location

    def parts(self, query: str, **values: Any) -> Iterator[Sequence[sa.Row[Any]]]:
        """The rows of a query, some thousands at a time; a list among the values is expanded."""
        lists = [name for name, value in values.items() if isinstance(value, list)]
        statement = sa.text(query).bindparams(*(sa.bindparam(n, expanding=True) for n in lists))
        try:
            result = self.connection.execute(
                statement, values, execution_options={"yield_per": CHUNK}
            )
            yield from result.partitions()
        except (DBAPIError, sqlite3.Error, UnicodeError) as error:
            reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
            raise RefusedError(f"{self.location} is damaged: {reason}.") from error

    def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """All rows of a query by the names of its columns."""
        return [dict(row._mapping) for part in self.parts(query, **values) for row in part]

    def by_id(self, table: str, ids: Iterable[int], key: str = "id") -> list[dict[str, Any]]:
        """The rows of a table with these ids."""
        wanted = sorted(ids)
        query = f"SELECT * FROM {table} WHERE {key} IN :ids ORDER BY {key}"
        return [
            row
            for start in range(0, len(wanted), CHUNK)
            for row in self.rows(query, ids=wanted[start : start + CHUNK])
        ]


def older_file(other: str | Path) -> Path | None:
    """The file of a notebook that an older mlux wrote; None for one of this mlux.

    Raises:
        StoreError: If it is neither.
    """
    path, _ = backends.parse(other)
    found = None if path is None else sqlite_file.revision(path, str(other))
    if path is not None and found is not None and FIRST <= found < HEAD:
        return path
    Store.open(other).close()
    return None


@contextmanager
def opened(other: str | Path) -> Iterator[tuple[Store, Path]]:
    """The other notebook and its artifacts' folder; an older file is upgraded in a copy."""
    path = older_file(other)
    if path is None:
        with Store.open(other) as store:
            yield store, artifacts.folder(store)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "older.db"
        with backends.clear_errors(str(other)):
            given = sqlite_file.connect(path, sqlite_file.read_options(path))
            written = sqlite3.connect(copy)
            try:
                given.backup(written)
            finally:
                written.close()
                given.close()
        Store.open(copy, write=True).close()
        with Store.open(copy) as store:
            yield store, artifacts.beside(path)


def check_tables(source: Source) -> None:
    """Raises StoreError unless all is there, and is a table: a view could compute anything."""
    there = {
        table: {column["name"] for column in columns}
        for (_, table), columns in sa.inspect(source.connection).get_multi_columns().items()
    }
    for name, table in TABLES.items():
        if name not in there:
            raise StoreError(f"{source.location} is damaged: it has no table {name}.")
        if missing := sorted({column.name for column in table.columns} - there[name]):
            raise StoreError(f"{source.location} is damaged: {name} has no column {missing[0]}.")
