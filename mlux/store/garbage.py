"""What nothing needs any more: runs long in the bin, and files that no run refers to."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from mlux.store import artifacts
from mlux.store.deletion import erase_runs
from mlux.store.session import Store, now

# A file that is being written has another name until it is whole. No writing takes a day.
_ABANDONED_SECONDS = 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """What was removed, or would be.

    Attributes:
        runs: Uids of runs that were in the bin for long.
        files: Artifacts' files that no other run refers to.
        bytes: The size of these files.
    """

    runs: tuple[str, ...]
    files: tuple[Path, ...]
    bytes: int


def collect_garbage(
    store: Store, *, older_than: timedelta = timedelta(days=30), dry_run: bool = False
) -> Garbage:
    """Removes runs that were deleted long ago, and then the files that nothing refers to.

    A writer may have written a file whose row has not committed yet. Files are removed under the
    lock that the row's transaction needs, and that transaction puts back what is missing.

    Args:
        store: The notebook, open for writing unless nothing is to be removed.
        older_than: How long a run has to be in the bin.
        dry_run: Only say what would be removed.

    Raises:
        StoreError: If the notebook cannot be written.
    """
    with store.reading() as connection:
        limit = (datetime.fromisoformat(now(connection)) - older_than).isoformat(
            timespec="milliseconds"
        )
        query = sa.text("SELECT uid FROM runs WHERE deleted_at <= :limit ORDER BY id")
        runs = tuple(connection.execute(query, {"limit": limit}).scalars())
        if dry_run:
            files = tuple(_unused(connection, artifacts.folder(store), runs))
            return Garbage(runs=runs, files=files, bytes=_size(files))
    erase_runs(store, runs)
    with store.writing() as connection:
        artifacts.hold(connection, exclusive=True)
        files = tuple(_unused(connection, artifacts.folder(store)))
        size = _size(files)
        for file in files:
            file.unlink(missing_ok=True)
    return Garbage(runs=runs, files=files, bytes=size)


def _unused(connection: sa.Connection, home: Path, without: tuple[str, ...] = ()) -> Iterator[Path]:
    """Files of artifacts to which no run refers, of those that stay."""
    query = "SELECT DISTINCT a.sha256, r.uid FROM artifacts AS a JOIN runs AS r ON r.id = a.run_id"
    rows = connection.execute(sa.text(query)).all()
    used = {sha256 for sha256, uid in rows if uid not in set(without)}
    for path in sorted(home.glob(f"??/*{artifacts.SUFFIX}")):
        if path.stem not in used:
            yield path
    for path in sorted(home.glob(f"*{artifacts.PARTIAL}")):
        if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
            yield path


def _size(files: tuple[Path, ...]) -> int:
    return sum(path.stat().st_size for path in files)
