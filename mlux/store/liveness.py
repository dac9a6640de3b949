"""Whether the process that works on a run is still there.

A killed process cannot say so, so whoever reads looks: a run that is `running` without its process
has crashed. Of another machine only the heartbeat is known.
"""

import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from weakref import WeakValueDictionary

import sqlalchemy as sa

from mlux.errors import StoreError
from mlux.store.session import Store, now

SILENCE = timedelta(minutes=10)
"""After this long without a heartbeat from another machine its process counts as gone.

Many heartbeats, because the clocks of two machines differ."""

at_work: WeakValueDictionary[str, object] = WeakValueDictionary()
"""Uid → this process's writer of that run; a run of ours that is not here was given up."""


def is_alive(uid: str, host: str, pid: int, heartbeat_at: str) -> bool:
    """Whether the process that last worked on a run still does."""
    if host != socket.gethostname():
        return datetime.now(UTC) - datetime.fromisoformat(heartbeat_at) < SILENCE
    if pid == os.getpid():
        return uid in at_work
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = _started(pid)
    # The number may have been given to a new process since.
    return started is None or started <= datetime.fromisoformat(heartbeat_at)


def _started(pid: int) -> datetime | None:
    """When a process started, to the second; None where the system does not say."""
    try:
        # The name, in brackets, may hold spaces; the start is the 22nd field, in clock ticks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = next(
            int(line.split()[1])
            for line in Path("/proc/stat").read_text().splitlines()
            if line.startswith("btime")
        )
    except (OSError, StopIteration):
        return None
    seconds = boot + int(fields[19]) // os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(seconds, UTC)


def mark_crashed(store: Store) -> set[str]:
    """Marks the runs whose process is gone.

    Returns:
        Those that could not be marked because the notebook cannot be written now.
    """
    with store.reading() as connection:
        running = connection.execute(sa.text(_RUNNING)).all()
        workers = connection.execute(sa.text(_WORKERS)).all() if running else []
    alive = {row.uid for row in (*running, *workers) if is_alive(*row)}
    gone = [tuple(row) for row in running if row.uid not in alive]
    if not gone:
        return set()
    try:
        with store.mending() as connection_or_none:
            if connection_or_none is not None:
                for uid, _, pid, heartbeat_at in gone:
                    _mark(connection_or_none, uid, pid, heartbeat_at)
                return set()
    except StoreError:
        # Somebody holds the lock; the next reader will mark them.
        pass
    return {uid for uid, *_ in gone}


def is_worked_on(connection: sa.Connection, uid: str) -> bool:
    """Whether a process works on a run that is `running`."""
    return any(run == uid for run, _, _ in at_work_now(connection))


def at_work_now(connection: sa.Connection) -> Iterator[tuple[str, str, int]]:
    """Run, host and process of everyone who works on a run of a notebook of any revision."""
    shared = sa.inspect(connection).has_table("run_workers")
    for query in (_RUNNING, _WORKERS) if shared else (_RUNNING,):
        for uid, host, pid, heartbeat_at in connection.execute(sa.text(query)).all():
            if is_alive(uid, host, pid, heartbeat_at):
                yield uid, host, pid


_RUNNING = "SELECT uid, host, pid, heartbeat_at FROM runs WHERE status = 'running'"
_WORKERS = """
SELECT r.uid, w.host, w.pid, w.heartbeat_at
FROM run_workers AS w JOIN runs AS r ON r.id = w.run_id
WHERE r.status = 'running' AND w.finished_at IS NULL
"""


def _mark(connection: sa.Connection, uid: str, pid: int, heartbeat_at: str) -> None:
    changed = connection.execute(
        # The last two conditions fail if the run was resumed in the meantime.
        sa.text(
            "UPDATE runs SET status = 'crashed' WHERE uid = :uid AND status = 'running' "
            "AND pid = :pid AND heartbeat_at = :heartbeat_at"
        ),
        {"uid": uid, "pid": pid, "heartbeat_at": heartbeat_at},
    )
    if changed.rowcount:
        record_event(connection, uid, "crashed", f"process {pid} is gone")


def record_event(connection: sa.Connection, uid: str, kind: str, message: str) -> None:
    """Adds to a run's history."""
    connection.execute(
        sa.text(
            "INSERT INTO run_events (run_id, at, kind, message) "
            "SELECT id, :at, :kind, :message FROM runs WHERE uid = :uid"
        ),
        {"uid": uid, "at": now(), "kind": kind, "message": message},
    )
