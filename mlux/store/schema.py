"""Bringing a notebook to the newest revision: under a lock, after a backup, all or nothing."""

from importlib.resources import files
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from mlux.errors import StoreError, UnknownNameError
from mlux.store import session
from mlux.store.backup import copy_database

# Any number that no other program locks in the same PostgreSQL database.
_ADVISORY_LOCK = 0x6D6C7578


def migrations_folder() -> Path:
    """Where the revisions are, in a checkout or an installed package."""
    return Path(str(files("mlux.migrations")))


def upgrade(store: session.Store) -> None:
    """Upgrades a notebook to `session.HEAD`; an existing file is backed up first.

    Of several processes that start at once, one upgrades and the others wait and find it done.

    Raises:
        StoreError: If the notebook is newer than this mlux, or cannot be written.
    """
    with store.migrating() as connection:
        _lock(connection)
        found = _revision(connection)
        session.check_not_newer(found, store.location)
        if found == session.HEAD:
            return
        if found is not None and store.path is not None:
            _back_up(store.path, found)
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
        StoreError: If the notebook cannot be written.
    """
    with store.migrating() as connection:
        _lock(connection)
        config = _config(connection)
        known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
        if revision not in known:
            raise UnknownNameError("revision", revision, known)
        found = _revision(connection)
        backup = None
        if found is not None and store.path is not None:
            backup = _back_up(store.path, found)
        command.downgrade(config, revision)
        _check_references(connection, store.location)
    return backup


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


def _back_up(path: Path, revision: str) -> Path:
    """Copies the file as it was last committed to `NAME.backup-REVISION`."""
    target = path.with_name(f"{path.name}.backup-{revision}")
    copy_database(path, target)
    return target


def _check_references(connection: sa.Connection, location: str) -> None:
    """A revision may rebuild tables with foreign keys off, so they are checked at its end."""
    if connection.dialect.name != "sqlite":
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchone()
    if broken is not None:
        raise StoreError(
            f"Cannot migrate {location}: a row of {broken[0]} refers to nothing in {broken[2]}."
        )
