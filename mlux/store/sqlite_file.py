"""What a file is, before it is opened for good: looking must not change anything.

SQLite leaves `-wal` and `-shm` files beside a database that it merely reads, and creates a file
that it is asked to open; so a file that may be somebody else's is looked at with `immutable=1`.
"""

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from urllib.parse import quote
from weakref import WeakSet

from mlux.errors import StoreError

BUSY_SECONDS = 30


class _Handle(sqlite3.Connection):
    """A connection that is known to be open until it is closed."""

    file: tuple[int, int] | None = None

    def close(self) -> None:
        super().close()
        _OPEN.discard(self)


_OPEN: WeakSet[_Handle] = WeakSet()
_GUARD = RLock()


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file a path leads to; never opened for it, as its closing drops all locks."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether this process has no handle of a file; in the block it opens none."""
    with _GUARD:
        here = _identity(path)
        yield all(handle.file != here for handle in _OPEN)


def connect(path: Path, options: str) -> sqlite3.Connection:
    """A connection in autocommit, so that every BEGIN is ours, with foreign keys on.

    Args:
        path: The database file.
        options: URI options, as in `mode=ro`.
    """
    with _GUARD:
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?{options}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            factory=_Handle,
        )
        connection.file = _identity(path)
        _OPEN.add(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    # With a WAL, NORMAL loses no commit when a process dies, and never corrupts; only a power cut
    # can take the last commits, and then their trials are pending again.
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def wal(path: Path) -> Path:
    """Where the write-ahead log is while the database is in use."""
    return path.with_name(path.name + "-wal")


def may_write(path: Path) -> bool:
    """Whether this process may write the file and what SQLite puts beside it."""
    may = os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK)
    return may and not has_other_names(path)


def has_other_names(path: Path) -> bool:
    """Whether there are hard links to the file.

    SQLite would keep one log for each name and damage the file, and what is written by one name
    would lack its artifacts by the other.
    """
    try:
        return path.stat().st_nlink > 1
    except OSError:  # not there, or not to be seen: what opens it says so
        return False


def read_options(path: Path) -> str:
    """URI options for reading without leaving anything behind.

    A reader that may write takes part in the locking and tidies up after itself; one that may not
    can only trust that nobody writes.
    """
    if may_write(path):
        return "mode=rw"
    return "mode=ro" if wal(path).exists() else "mode=ro&immutable=1"


def revision(path: Path, shown: str) -> str | None:
    """The schema revision of a file; None if it is absent or still empty.

    Args:
        path: The file.
        shown: What to call it in an error.

    Raises:
        StoreError: If it is no database of mlux, or cannot be read.
    """
    if not path.absolute().parent.is_dir():
        raise StoreError(f"Cannot open {shown}: there is no folder {str(path.parent)!r}.")
    if path.is_dir():
        raise StoreError(f"Cannot open {shown}: it is a folder, not a database.")
    try:
        # Never opened by ourselves: closing a file drops all locks that this process has on it,
        # and another of its connections may be in the middle of a transaction.
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"Cannot open {shown}: {error.strerror}.") from error
    if size == 0:
        return None
    if not os.access(path, os.R_OK):
        raise StoreError(f"Cannot open {shown}: no permission to read it.")
    return _settled_revision(path, shown)


def _settled_revision(path: Path, shown: str) -> str | None:
    """As `revision`; a file that another process is creating right now is looked at again."""
    for _ in range(5):
        live = wal(path).exists()
        try:
            return _revision(path, shown, "mode=ro" if live else "immutable=1")
        except StoreError:
            if live or not wal(path).exists():
                raise
        time.sleep(0.05)
    return _revision(path, shown, "mode=ro")


def _revision(path: Path, shown: str, options: str) -> str | None:
    try:
        connection = connect(path, options)
        try:
            rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = {name for (name,) in rows}
            found = (
                connection.execute("SELECT version_num FROM alembic_version").fetchall()
                if "alembic_version" in tables
                else []
            )
        finally:
            connection.close()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # What SQLite quotes of a damaged file may be no text.
        reason = (
            str(error)
            .partition("\n")[0]
            .replace("file is not a database", "it is not a SQLite database")
        )
        raise StoreError(f"Cannot open {shown}: {reason}.") from error
    return known_revision(tables, [name for (name,) in found], shown)


def known_revision(tables: set[str], versions: list[str], shown: str) -> str | None:
    """The revision if these tables are of mlux; None if there are none yet.

    Raises:
        StoreError: If they are of another program.
    """
    if not tables - {"alembic_version"}:
        return None
    # Alembic serves others too (MLflow's database has runs and metrics), so ours are told by both.
    # A damaged file may hold anything in place of its revision.
    ours = len(versions) == 1 and re.fullmatch(r"r\d+", str(versions[0])) is not None
    if ours and "layer_results" in tables:
        return versions[0]
    raise StoreError(f"Cannot use {shown}: it is a database of another program. Choose another.")
