"""Opening the notebook: where it is, how its transactions begin, and what their errors say.

What depends on whether it is SQLite or PostgreSQL is in `backends` and `sqlite_file`.
"""

import os
import random
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa

from mlux.errors import StoreError
from mlux.store import backends, sqlite_file

HEAD = "r0004"
"""The newest schema revision, which this mlux reads and writes."""

FIRST = "r0001"
"""The oldest schema revision that there was."""

VARIABLE = "MLUX_DB"

DEFAULT_NAME = "mlux.db"
"""The file in the working directory that is used where nobody says another."""

BACK_OFF = (0.1, 0.2, 0.4, 0.8)
"""Seconds to pause before asking again for a lock that SQLite waited for in vain.

A migration or the deletion of a large run may hold it for longer than one wait; a run that has
computed for hours should not be lost to it.
"""


def default_location() -> str:
    """`$MLUX_DB`, or `mlux.db` in the working directory."""
    return os.environ.get(VARIABLE) or DEFAULT_NAME


def now(connection: sa.Connection) -> str:
    """The time as it is stored: ISO-8601 in UTC, which sorts by time.

    On a server it is the server's, because the clocks of those who use it differ.
    """
    if connection.dialect.name == "postgresql":
        return str(connection.execute(_SERVER_TIME).scalar_one())
    return _as_stored(datetime.now(UTC))


def later(time: str, before: str | None) -> str:
    """A time, or if the clock was set back since, the least time after the one before."""
    if before is None or time > before:
        return time
    return _as_stored(datetime.fromisoformat(before) + timedelta(milliseconds=1))


def _as_stored(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")


_SERVER_TIME = sa.text(
    "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', "
    """'YYYY-MM-DD"T"HH24\\:MI\\:SS.MS"+00\\:00"')"""
)


class Store:
    """An open notebook; a context manager that closes it.

    Attributes:
        location: The path or URL, without its password.
        path: The file, if it is one.
        engine: SQLAlchemy's engine; `reading` and `writing` give connections.
        writable: Whether it was opened for writing.
        is_open: Whether it was not closed yet.
    """

    def __init__(
        self, location: str, path: Path | None, engine: sa.Engine, *, writable: bool
    ) -> None:
        self.location = location
        self.path = path
        self.engine = engine
        self.writable = writable
        self.is_open = True
        self._file: tuple[int, int] | None = None

    @classmethod
    def open(cls, location: str | Path, *, write: bool = False) -> Self:
        """Opens a notebook; for writing, it is created or upgraded first.

        Args:
            location: A path, or a URL of SQLAlchemy for SQLite or PostgreSQL.
            write: Whether to write. Reading neither creates nor changes anything.

        Raises:
            StoreError: If it cannot be opened, is not of mlux, or is newer than this mlux.
        """
        path, url = backends.parse(location)
        if path is None:
            assert url is not None
            store = cls(url.render_as_string(), None, backends.postgres(url, write), writable=write)
            with backends.clear_errors(store.location):
                found = store._revision()
        else:
            shown = str(location)
            found = sqlite_file.revision(path, shown)
            if write and sqlite_file.has_other_names(path):
                raise StoreError(
                    f"Cannot write to {shown}: the file has other names (hard links). Make a copy "
                    "with mlux db backup and write to that, or use a symbolic link (ln -s)."
                )
            if write and path.exists() and not sqlite_file.may_write(path):
                raise StoreError(f"Cannot write to {shown}: no permission.")
            if write and not os.access(path.absolute().parent, os.W_OK):
                raise StoreError(f"Cannot create {shown}: no permission to write in its folder.")
            store = cls(shown, path, backends.sqlite(path, write), writable=write)
        try:
            store._reach_head(found)
        except BaseException:
            store.close()
            raise
        store._file = store._file_now()
        return store

    def _file_now(self) -> tuple[int, int] | None:
        """Which file the path leads to; never opened for it, as its closing drops all locks."""
        try:
            found = None if self.path is None else self.path.stat()
        except FileNotFoundError:
            return None
        return None if found is None else (found.st_dev, found.st_ino)

    def check_in_place(self) -> None:
        """Raises StoreError if what is written goes to a file that is no longer at the path."""
        if self._file != self._file_now():
            raise StoreError(
                f"{self.location} was removed, renamed or replaced while it was in use: what was "
                "written since went to the file that is gone from there. Run it again."
            )

    def _reach_head(self, found: str | None) -> None:
        check_not_newer(found, self.location)
        if self.writable:
            if self.path is not None:
                self._use_wal()
            if found != HEAD:
                # Alembic costs 150 ms; a notebook that is up to date does without.
                from mlux.store import schema

                schema.upgrade(self)
        elif found is None:
            raise StoreError(f"No database at {self.location}. Run an experiment first: mlux demo")
        elif found != HEAD:
            raise StoreError(
                f"Database {self.location} is at revision {found}; this mlux needs {HEAD}. "
                "Upgrade it: mlux db upgrade"
            )

    def _use_wal(self) -> None:
        """Switches the file to a write-ahead log; it stays so."""
        with backends.clear_errors(self.location):
            deadline = time.monotonic() + sqlite_file.BUSY_SECONDS
            while True:
                try:
                    with self._driver() as connection:
                        connection.execute("PRAGMA journal_mode = WAL")
                    return
                except sqlite3.OperationalError as error:
                    # The switch does not wait for a lock by itself.
                    locked = error.sqlite_errorcode & 0xFF in (
                        sqlite3.SQLITE_BUSY,
                        sqlite3.SQLITE_LOCKED,
                    )
                    if not locked or time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)

    @contextmanager
    def _driver(self) -> Iterator[Any]:
        """A connection of the driver, outside any transaction."""
        pooled = self.engine.raw_connection()
        try:
            yield pooled.driver_connection
        finally:
            pooled.close()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection in a transaction that sees one state of the notebook."""
        with self._clear_errors(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """As `backends.clear_errors`; whoever lacks a table is told if others took it away."""
        with backends.clear_errors(self.location):
            try:
                yield
            except sa.exc.DBAPIError as error:
                if backends.lacks_something(error) and (found := self._revision()) != HEAD:
                    raise StoreError(
                        f"{self.location} was migrated to revision {found} while it was in use; "
                        f"this mlux needs {HEAD}. Nothing that was stored is lost: upgrade it "
                        "(mlux db upgrade), then go on (mlux runs resume)."
                    ) from error
                raise

    def _revision(self) -> str | None:
        if self.path is not None:
            return sqlite_file.revision(self.path, self.location)
        with self.engine.connect() as connection:
            return backends.postgres_revision(connection, self.location)

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A connection in a transaction that holds the write lock from its start.

        It commits at the end of the block and rolls back on an error. (A transaction that reads
        first and asks for the lock later fails under concurrency, however long it may wait.)

        Raises:
            StoreError: If the notebook was opened for reading, or cannot be written.
        """
        if not self.writable:
            raise StoreError(f"{self.location} was opened for reading only.")
        with self._locked() as connection:
            yield connection

    @contextmanager
    def mending(self) -> Iterator[sa.Connection | None]:
        """As `writing`, also on a notebook opened for reading; None where nothing can be written.

        For what a reader may set right by the way: the status of a run whose process is gone.
        """
        if self.writable or self.path is None:
            with self._locked() as connection:
                yield connection
        elif sqlite_file.may_write(self.path):
            with self._locked(impatient=True) as connection:
                yield connection
        else:
            yield None

    @contextmanager
    def migrating(self) -> Iterator[sa.Connection]:
        """As `writing`, with foreign keys off: a revision may have to rebuild a table.

        Its engine is its own, so that no other transaction gets that connection.
        """
        if self.path is None:
            with self.writing() as connection:
                yield connection
            return
        engine = backends.sqlite(self.path, write=True, foreign_keys=False)
        apart = type(self)(self.location, self.path, engine, writable=True)
        with apart, apart.writing() as connection:
            yield connection

    @contextmanager
    def _locked(self, *, impatient: bool = False) -> Iterator[sa.Connection]:
        with self._clear_errors(), self.engine.connect() as connection:
            connection = connection.execution_options(**backends.WRITES)
            driver: Any = connection.connection.driver_connection
            if impatient:
                driver.executescript("PRAGMA query_only = OFF; PRAGMA busy_timeout = 500")
            try:
                with _begin(connection, () if impatient else BACK_OFF):
                    yield connection
            finally:
                if impatient:
                    driver.executescript(
                        f"PRAGMA query_only = ON; "
                        f"PRAGMA busy_timeout = {sqlite_file.BUSY_SECONDS * 1000}"
                    )

    def close(self) -> None:
        """Closes every connection; SQLite then folds its log into the file."""
        self.is_open = False
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        """Where it is, at which revision."""
        return f"Store({self.location!r}, revision={HEAD!r}, writable={self.writable})"


def _begin(connection: sa.Connection, pauses: Sequence[float]) -> sa.RootTransaction:
    """Begins a transaction; if the database stays locked, again after each pause."""
    for pause in pauses:
        try:
            return connection.begin()
        except sa.exc.OperationalError as error:
            if not backends.is_busy(error):
                raise
            # Not all that wait come back at the same moment.
            time.sleep(pause * random.uniform(0.5, 1.5))
    return connection.begin()


@contextmanager
def opened(db: "str | Path | Store | None") -> Iterator[Store]:
    """The notebook, for reading; one that was handed over open stays open."""
    if isinstance(db, Store):
        yield db
    else:
        with Store.open(default_location() if db is None else db) as store:
            yield store


def check_not_newer(found: str | None, location: str) -> None:
    """Raises StoreError if a revision is one that only a later mlux knows, or none."""
    if found is not None and found > HEAD:
        raise StoreError(
            f"Database {location} is at revision {found}; this mlux knows up to {HEAD}. "
            "Upgrade mlux: pip install -U mlux."
        )
    if found is not None and found < FIRST:
        raise StoreError(
            f"Database {location} is damaged: it says revision {found}, which no mlux had. "
            "Put a backup in its place."
        )


def insert(
    connection: sa.Connection,
    table: str,
    columns: str,
    rows: Iterable[tuple[Any, ...]],
    tail: str = "",
) -> None:
    """Inserts rows as the driver takes them, twice as fast as through SQLAlchemy's `insert`.

    Args:
        connection: A connection in a writing transaction.
        table: The table.
        columns: Its columns, separated by commas.
        rows: One tuple for each row; taken one after another, so that none need be kept.
        tail: What follows the values, as in `ON CONFLICT DO NOTHING`.
    """
    marks = ", ".join("?" * (columns.count(",") + 1))
    execute_many(connection, f"INSERT INTO {table} ({columns}) VALUES ({marks}) {tail}", rows)


def execute_many(connection: sa.Connection, statement: str, rows: Iterable[tuple[Any, ...]]) -> int:
    """Executes a statement for each row, as the driver does it.

    Args:
        connection: A connection in a writing transaction.
        statement: SQL with a `?` for each value, and no other question mark.
        rows: The values.

    Returns:
        How many rows of the table were inserted or changed.
    """
    driver: Any = connection.connection.driver_connection
    dialect = connection.dialect
    if dialect.paramstyle != "qmark":
        statement = statement.replace("?", "%s")
    cursor = driver.cursor()
    try:
        cursor.executemany(statement, rows)
        return int(cursor.rowcount)
    except dialect.loaded_dbapi.Error as error:
        # As SQLAlchemy would have raised it.
        raise sa.exc.DBAPIError.instance(
            statement, None, error, dialect.loaded_dbapi.Error, dialect=dialect
        ) from error
    finally:
        cursor.close()
