"""Copies of a notebook that lies in a file, while others may be writing to it."""

import shutil
import sqlite3
from datetime import datetime
from pathlib import Path

from mlux.errors import StoreError
from mlux.store import artifacts
from mlux.store.session import Store
from mlux.store.sqlite_file import connect

PARTIAL = ".partial"
"""Behind the name of a copy that is not whole yet."""


def back_up(store: Store, target: Path | None = None) -> Path:
    """Copies a notebook as it is now, with the files of its artifacts in a folder beside it.

    Args:
        store: The notebook, which others may go on writing to.
        target: Where to; by default beside it, named by the time.

    Returns:
        Where the copy is.

    Raises:
        StoreError: If it is on a server, the target exists, or the disk refuses.
    """
    if store.path is None:
        raise StoreError(
            f"{store.location} is kept by a server; copy it with pg_dump, or chosen runs of it "
            "with mlux export."
        )
    if target is None:
        time = datetime.now().astimezone()
        target = store.path.with_name(f"{store.path.name}.backup-{time:%Y%m%d-%H%M%S}")
    if target.exists():
        raise StoreError(f"Cannot back up to {target}: it is there already. Choose another name.")
    # First the database: what it refers to is there before it, and stays while it refers to it.
    copy_database(store.path, target)
    home = artifacts.folder(store)
    try:
        for path in home.glob(f"??/*{artifacts.SUFFIX}"):
            folder = artifacts.beside(target) / path.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, folder)
    except OSError as error:
        raise StoreError(f"Cannot back up the artifacts of {store.location}: {error}.") from error
    return target


def copy_database(path: Path, target: Path) -> None:
    """Copies a database file as it was last committed, whole or not at all.

    Raises:
        StoreError: If it cannot be read, or the copy not be written.
    """
    # Always of the same name, so that what a killed process left is overwritten.
    partial = target.with_name(target.name + PARTIAL)
    try:
        partial.unlink(missing_ok=True)
        source, copy = connect(path, "mode=ro"), sqlite3.connect(partial)
        try:
            source.backup(copy)
            # One file, complete in itself, wherever it is copied to.
            copy.execute("PRAGMA journal_mode = DELETE")
        finally:
            copy.close()
            source.close()
        partial.replace(target)
    except (OSError, sqlite3.Error) as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"Cannot back up {path} to {target}: {error}.") from error
