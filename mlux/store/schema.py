"""Bringing a notebook to the newest revision: under a lock, after a backup, all or nothing."""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.resources import files
from itertools import count
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from mlux.errors import StoreError, UnknownNameError
from mlux.store import liveness, session
from mlux.store.backup import PARTIAL, copy_database

# Any number that no other program locks in the same PostgreSQL database.
_ADVISORY_LOCK = 0x6D6C7578


def migrations_folder() -> Path:
    """Where the revisions are, in a checkout or an installed package."""
    return Path(str(files("mlux.migrations")))


def upgrade(store: session.Store) -> None:
    """Upgrades a notebook to `session.HEAD`; an existing file is backed up first.

    Of several processes that start at once, one upgrades and the others wait and find it done.

    Raises:
        StoreError: If the notebook is newer than this mlux or cannot be written, or a process works
            on one of its runs.
    """
    _look_who_works(store)
    with _backed_up() as backup, store.migrating() as connection:
        _lock(connection)
        found = _revision(connection)
        session.check_not_newer(found, store.location)
        if found == session.HEAD:
            return
        if found is not None:
            _refuse_while_running(connection, store.location)
            backup.make(store.path, found)
        command.upgrade(_config(connection), session.HEAD)
        _check_references(connection, store.location)


def downgrade(store: session.Store, revision: str) -> Path | None:
    """Takes a notebook back to an earlier revision, for an earlier mlux; a backup is kept.

    This mlux can then not use it, unless it upgrades it again.

    Args:
        store: The notebook, open for writing; to be closed after this.
        revision: Such as `r0001`.

    Returns:
        The backup; None on a server.

    Raises:
        UnknownNameError: If there is no such revision.
        StoreError: If the notebook cannot be written, or a process works on one of its runs.
    """
    _look_who_works(store)
    with _backed_up() as backup, store.migrating() as connection:
        _lock(connection)
        config = _config(connection)
        known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
        if revision not in known:
            raise UnknownNameError("revision", revision, known)
        found = _revision(connection)
        if found is not None:
            _refuse_while_running(connection, store.location)
            backup.make(store.path, found)
        command.downgrade(config, revision)
        _check_references(connection, store.location)
    return backup.path


def _config(connection: sa.Connection) -> Config:
    config = Config()
    # A percent sign would be interpolated by Alembic's option parser.
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _lock(connection: sa.Connection) -> None:
    """On PostgreSQL; on SQLite the transaction itself is the lock."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


class _Backup:
    """The copy of a file from before a migration; none of a server's database."""

    path: Path | None = None

    def make(self, path: Path | None, revision: str) -> None:
        """Copies the file as it was last committed to `NAME.backup-REVISION-TIME`."""
        if path is None:
            return
        stem = f"{path.name}.backup-{revision}-"
        for left in path.parent.glob(f"{glob.escape(stem)}*{PARTIAL}"):
            left.unlink()  # of a migration that was killed; we hold the lock
        target = path.with_name(f"{stem}{datetime.now().astimezone():%Y%m%d-%H%M%S}")
        numbers = count(2)
        while target.exists():
            target = target.with_name(f"{target.name.partition('~')[0]}~{next(numbers)}")
        copy_database(path, target)
        self.path = target


@contextmanager
def _backed_up() -> Iterator[_Backup]:
    """A backup that stays if the migration was done; else the notebook itself is as before."""
    backup = _Backup()
    try:
        yield backup
    except BaseException:
        if backup.path is not None:
            backup.path.unlink()
        raise


def _look_who_works(store: session.Store) -> None:
    """Notes whose signs of life are missing, so that also a migration that is refused does so."""
    with store.writing() as connection:
        if _revision(connection) is not None:
            list(liveness.at_work_now(connection))


def _refuse_while_running(connection: sa.Connection, location: str) -> None:
    """Raises StoreError if a process works on a run: with its tables changed, it would fail."""
    for uid, host, pid in liveness.at_work_now(connection):
        raise StoreError(
            f"Cannot migrate {location} now: process {pid} on {host} works on run {uid}, and would "
            "fail with other tables. Wait until it is done, or stop it, and try again."
        )


def _check_references(connection: sa.Connection, location: str) -> None:
    """A revision may rebuild tables with foreign keys off, so they are checked at its end."""
    if connection.dialect.name != "sqlite":
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchone()
    if broken is not None:
        raise StoreError(
            f"Cannot migrate {location}: a row of {broken[0]} refers to nothing in {broken[2]}."
        )
