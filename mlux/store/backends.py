"""SQLite and PostgreSQL: how each is opened, begins a transaction, and says what went wrong.

All that depends on which of them it is, is here and in `sqlite_file`.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError

from mlux.errors import StoreError
from mlux.store import sqlite_file

WRITING = "mlux_writing"
"""The execution option of a connection whose transactions take the write lock."""

WRITES: dict[str, Any] = {WRITING: True, "postgresql_readonly": False}
"""What makes a connection one that writes, also of an engine that was made for reading."""

# SQLite's primary code for a wrong statement: that is a bug of ours, not of the file or disk,
_SQLITE_BUG = 1
# unless a table is missing that every notebook of this revision has (psycopg: UndefinedTable), or a
# text is none.
_DAMAGED = ("no such table", "Could not decode to UTF-8")


def parse(location: str | Path) -> tuple[Path | None, sa.URL | None]:
    """A file's own path, whichever links and `..` led to it, or the URL of a server.

    What lies beside the file (SQLite's log, artifacts, backups) is then the same by every way, also
    when the process changes its folder later or a link is led elsewhere.

    Raises:
        StoreError: If it is neither, or its links lead in a circle.
    """
    if isinstance(location, Path) or "://" not in location:
        if not str(location):
            raise StoreError("The database's path is empty.")
        return _own_path(Path(location), str(location)), None
    try:
        url = sa.make_url(location)
    except ArgumentError as error:
        raise StoreError(f"Cannot read the database URL {location!r}.") from error
    kind = url.get_backend_name()
    if kind == "sqlite":
        if not url.database or url.database == ":memory:":
            raise StoreError(f"Cannot use {location}: a notebook has to be a file.")
        return _own_path(Path(url.database), location), None
    if kind != "postgresql":
        raise StoreError(f"Cannot use {location}: mlux knows sqlite and postgresql, not {kind}.")
    return None, url


def _own_path(path: Path, shown: str) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a circle, before Python 3.13
        reason = getattr(error, "strerror", None) or "its symbolic links lead in a circle"
        raise StoreError(f"Cannot open {shown}: {reason}.") from error


def sqlite(path: Path, write: bool, *, foreign_keys: bool = True) -> sa.Engine:
    """An engine whose every BEGIN is its own: IMMEDIATE where `WRITING` is set."""

    def connect() -> sqlite3.Connection:
        connection = sqlite_file.connect(
            path, "mode=rwc" if write else sqlite_file.read_options(path)
        )
        if not write:
            connection.execute("PRAGMA query_only = ON")
        if not foreign_keys:
            connection.execute("PRAGMA foreign_keys = OFF")
        return connection

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.QueuePool)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writing = connection.get_execution_options().get(WRITING)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def postgres(url: sa.URL, write: bool) -> sa.Engine:
    """An engine of a server; it connects when it is first used."""
    driver = url.get_driver_name()
    if driver != "psycopg":
        raise StoreError(f"Cannot use the driver {driver}; write the URL as postgresql+psycopg://…")
    try:
        engine = sa.create_engine(url, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise StoreError("PostgreSQL needs a driver: pip install 'mlux[postgres]'") from error
    if not write:
        # One state of the notebook in each transaction, as SQLite's readers have it.
        engine = engine.execution_options(
            postgresql_readonly=True, isolation_level="REPEATABLE READ"
        )
    return engine


def postgres_revision(connection: sa.Connection, location: str) -> str | None:
    """The schema revision of a server's database; None if it is empty."""
    tables = set(sa.inspect(connection).get_table_names())
    versions = (
        list(connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars())
        if "alembic_version" in tables
        else []
    )
    return sqlite_file.known_revision(tables, versions, location)


@contextmanager
def clear_errors(location: str) -> Iterator[None]:
    """Turns what the disk, the lock or the server did into one line; a bug of ours stays one."""
    try:
        yield
    except UnicodeDecodeError as error:
        # What SQLite quotes of a damaged file may be no text.
        raise StoreError(f"Database {location} is damaged: {error}.") from error
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        reason = str(cause).strip().partition("\n")[0]
        if reason.startswith(_DAMAGED) or type(cause).__name__ == "UndefinedTable":
            raise StoreError(
                f"Database {location} is damaged: {reason}. Put a backup in its place; "
                "mlux sql reads what is left of it."
            ) from error
        if isinstance(cause, sqlite3.Error):
            code = getattr(cause, "sqlite_errorcode", None)
            if (
                code is None
                or code & 0xFF == _SQLITE_BUG
                or isinstance(cause, sqlite3.IntegrityError)
            ):
                raise
        elif not getattr(error, "connection_invalidated", False) and not _of_server(cause):
            raise
        raise StoreError(f"Database {location}: {reason}.") from error


def lacks_something(error: DBAPIError) -> bool:
    """Whether a statement named a table or column that is not there."""
    missing = ("no such table", "no such column", "has no column named")
    return type(error.orig).__name__ in ("UndefinedTable", "UndefinedColumn") or any(
        text in str(error.orig) for text in missing
    )


def is_busy(error: DBAPIError) -> bool:
    """Whether SQLite gave up waiting for a lock that somebody else holds."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


def _of_server(cause: BaseException | None) -> bool:
    # psycopg's class names; it is an optional dependency and not imported here.
    kinds = {kind.__name__ for kind in type(cause).__mro__}
    return bool(kinds & {"OperationalError", "InsufficientPrivilege", "ReadOnlySqlTransaction"})
