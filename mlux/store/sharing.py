"""Several processes that work on one run, each on trials of its own.

A process joins as a worker and claims trials before it computes them. A claimed trial is nobody
else's until its worker is gone: then whoever claims next may have it. Claims are made under the
write lock, so no trial is computed twice.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from mlux.provenance import Environment
from mlux.store import liveness
from mlux.store.session import now

BEAT = """
UPDATE run_workers SET heartbeat_at = :at
WHERE run_id = :run AND worker = :worker AND finished_at IS NULL
  AND EXISTS (SELECT 1 FROM runs AS r WHERE r.id = :run AND r.status = 'running')
"""
"""A sign of life of one worker; it changes no row if the run is no longer the worker's."""


def join(connection: sa.Connection, run: int, environment: Environment) -> int:
    """Adds this process to the workers of a run that the transaction has locked; its number."""
    number: int = connection.execute(
        sa.text("SELECT coalesce(max(worker), -1) + 1 FROM run_workers WHERE run_id = :run"),
        {"run": run},
    ).scalar_one()
    connection.execute(
        sa.text(
            "INSERT INTO run_workers (run_id, worker, host, pid, device, started_at, heartbeat_at) "
            "VALUES (:run, :worker, :host, :pid, :device, :at, :at)"
        ),
        {
            "run": run,
            "worker": number,
            "host": environment.host,
            "pid": environment.pid,
            "device": environment.device,
            "at": now(connection),
        },
    )
    return number


def claim(
    connection: sa.Connection, run: int, uid: str, worker: int, trials: Sequence[int]
) -> list[int]:
    """Claims those trials that are pending and nobody's; a dead worker's become nobody's first.

    Returns:
        What is claimed now, in order; trials that this worker had claimed before among them.
    """
    dismiss_dead(connection, run, uid)
    found: list[int] = []
    query = sa.text(
        "UPDATE trials SET worker = :worker WHERE run_id = :run AND trial IN :trials "
        "AND status = 'pending' AND (worker IS NULL OR worker = :worker) RETURNING trial"
    ).bindparams(sa.bindparam("trials", expanding=True))
    for start in range(0, len(trials), 30_000):
        part = list(trials[start : start + 30_000])
        values = {"worker": worker, "run": run, "trials": part}
        found += connection.execute(query, values).scalars().all()
    return sorted(found)


def dismiss_dead(connection: sa.Connection, run: int, uid: str) -> None:
    """Ends the work of those whose process is gone."""
    workers = connection.execute(
        sa.text(
            "SELECT worker, host, pid, heartbeat_at FROM run_workers "
            "WHERE run_id = :run AND finished_at IS NULL"
        ),
        {"run": run},
    ).all()
    for worker, host, pid, heartbeat_at in workers:
        if not liveness.is_alive(connection, uid, host, pid, heartbeat_at):
            leave(connection, run, worker)


def leave(connection: sa.Connection, run: int, worker: int) -> bool:
    """Ends a worker's work; what it had claimed and not done is free again.

    Returns:
        Whether it was at work until now.
    """
    ended = connection.execute(
        sa.text(
            "UPDATE run_workers SET finished_at = :at "
            "WHERE run_id = :run AND worker = :worker AND finished_at IS NULL"
        ),
        {"at": now(connection), "run": run, "worker": worker},
    )
    connection.execute(
        sa.text(
            "UPDATE trials SET worker = NULL "
            "WHERE run_id = :run AND worker = :worker AND status = 'pending'"
        ),
        {"run": run, "worker": worker},
    )
    return ended.rowcount == 1


def hand_over(connection: sa.Connection, run: int) -> bool:
    """Names one of those at work as the run's process; False if none is."""
    changed = connection.execute(
        sa.text(
            "UPDATE runs SET (host, pid, heartbeat_at) = "
            "(SELECT w.host, w.pid, w.heartbeat_at FROM run_workers AS w "
            "WHERE w.run_id = :run AND w.finished_at IS NULL ORDER BY w.worker LIMIT 1) "
            "WHERE id = :run AND EXISTS (SELECT 1 FROM run_workers AS w "
            "WHERE w.run_id = :run AND w.finished_at IS NULL)"
        ),
        {"run": run},
    )
    return changed.rowcount == 1


def n_at_work(connection: sa.Connection, run: int) -> int:
    """How many workers have not ended."""
    query = "SELECT count(*) FROM run_workers WHERE run_id = :run AND finished_at IS NULL"
    count: int = connection.execute(sa.text(query), {"run": run}).scalar_one()
    return count
