"""Whether the process that works on a run is still there.

A killed process cannot say so, so whoever reads looks: a run that is `running` without its process
has crashed. Of another machine only the heartbeat is known: not how old it is, since no two clocks
agree, but whether it changes.
"""

import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from pathlib import Path
from weakref import WeakValueDictionary

import sqlalchemy as sa

from mlux.errors import StoreError
from mlux.store.backends import WRITING
from mlux.store.session import Store, now

SILENCE = timedelta(minutes=10)
"""A process of which only its signs of life are known counts as gone if somebody saw that there was
none, and somebody after this time still sees the same last one."""

LONG_SILENCE = timedelta(days=1)
"""After this long it counts as gone at first sight: no clock is so wrong."""

at_work: WeakValueDictionary[str, object] = WeakValueDictionary()
"""Uid → this process's writer of that run; a run of ours that is not here was given up."""


def is_alive(connection: sa.Connection, uid: str, host: str, pid: int, heartbeat_at: str) -> bool:
    """Whether the process that last worked on a run still does; if in doubt, it does.

    In a transaction that writes, the doubt is noted, for a later look to decide.
    """
    found = _state(connection, uid, host, pid, heartbeat_at)
    if found is _State.SILENT and connection.get_execution_options().get(WRITING):
        _note_silence(connection, uid, host, pid, heartbeat_at)
    return found is not _State.GONE


class _State(Enum):
    """What is known of a process."""

    ALIVE = auto()
    SILENT = auto()  # it seems to be gone, and nobody has noted so
    GONE = auto()


def _state(connection: sa.Connection, uid: str, host: str, pid: int, heartbeat_at: str) -> _State:
    """A clock may be set while a run goes on, and two machines have two.

    So a last sign of life that seems to be old is not believed before it was seen twice.
    """
    last, time = (datetime.fromisoformat(text) for text in (heartbeat_at, now(connection)))
    if host == socket.gethostname():
        if pid == os.getpid():
            return _State.ALIVE if uid in at_work else _State.GONE
        if not _exists(pid):
            return _State.GONE
        started = _started(pid)
        # The number may have been given to a new process since.
        if started is None or started <= last:
            return _State.ALIVE
    elif time - last < SILENCE:
        return _State.ALIVE
    if time - last > LONG_SILENCE:
        return _State.GONE
    noted = connection.execute(
        sa.text(
            "SELECT max(e.at) FROM run_events AS e JOIN runs AS r ON r.id = e.run_id "
            "WHERE r.uid = :uid AND e.kind = :kind AND e.message = :message"
        ),
        {"uid": uid, "kind": _SILENT, "message": _silence(host, pid) + heartbeat_at},
    ).scalar()
    if noted is None:
        return _State.SILENT
    return _State.GONE if time - datetime.fromisoformat(noted) > SILENCE else _State.ALIVE


_SILENT = "silent"


def _silence(host: str, pid: int) -> str:
    return f"no sign of life of process {pid} on {host} since "


def _note_silence(
    connection: sa.Connection, uid: str, host: str, pid: int, heartbeat_at: str
) -> None:
    """Adds to a run's history that a process seems to be gone, in place of what was seen before."""
    seen = _silence(host, pid)
    connection.execute(
        sa.text(
            "DELETE FROM run_events WHERE run_id = (SELECT id FROM runs WHERE uid = :uid) "
            "AND kind = :kind AND substr(message, 1, :length) = :seen"
        ),
        {"uid": uid, "kind": _SILENT, "length": len(seen), "seen": seen},
    )
    record_event(connection, uid, _SILENT, seen + heartbeat_at)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


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
        states = {tuple(row): _state(connection, *row) for row in (*running, *workers)}
    alive = {uid for (uid, *_), found in states.items() if found is not _State.GONE}
    silent = [row for row, found in states.items() if found is _State.SILENT]
    gone = [tuple(row) for row in running if row.uid not in alive]
    if not (gone or silent):
        return set()
    try:
        with store.mending() as connection_or_none:
            if connection_or_none is not None:
                for row in silent:
                    _note_silence(connection_or_none, *row)
                for uid, _, pid, heartbeat_at in gone:
                    _mark(connection_or_none, uid, pid, heartbeat_at)
                return set()
    except StoreError:
        # Somebody holds the lock; the next reader will mark them.
        return {uid for uid, *_ in gone}
    # Nobody can note anything here, so what is silent stays so.
    sure = {uid for (uid, *_), found in states.items() if found is _State.ALIVE}
    return {uid for uid, *_ in running if uid not in sure}


def is_worked_on(connection: sa.Connection, uid: str) -> bool:
    """Whether a process works on a run that is `running`."""
    return any(run == uid for run, _, _ in at_work_now(connection))


def at_work_now(connection: sa.Connection) -> Iterator[tuple[str, str, int]]:
    """Run, host and process of everyone who works on a run of a notebook of any revision."""
    shared = sa.inspect(connection).has_table("run_workers")
    for query in (_RUNNING, _WORKERS) if shared else (_RUNNING,):
        for uid, host, pid, heartbeat_at in connection.execute(sa.text(query)).all():
            if is_alive(connection, uid, host, pid, heartbeat_at):
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
        {"uid": uid, "at": now(connection), "kind": kind, "message": message},
    )
