"""Runs into the bin, out of it again, and away for good."""

from collections.abc import Iterable

import sqlalchemy as sa

from mlux.errors import RunError, UnknownNameError
from mlux.store import liveness
from mlux.store.liveness import record_event
from mlux.store.reader import resolve_run
from mlux.store.session import Store, now

# Deleted by the range of their keys before the run is: the cascade would look for the results of
# each trial, whose key does not begin with the trial.
_OWN = (
    *("layer_results", "token_predictions", "trial_tokens", "generations", "artifacts"),
    *("trials", "run_workers", "run_params", "run_tags", "run_versions", "run_metrics"),
    *("run_events", "claim_runs"),
)


def delete_runs(store: Store, uids: Iterable[str]) -> None:
    """Puts runs into the bin: they are out of sight, and can be restored.

    Args:
        store: The notebook, open for writing.
        uids: The runs; those that are in the bin already stay there.

    Raises:
        RunError: If a process works on one of them; none of them is then deleted.
    """
    _move(store, uids, "deleted", "coalesce(deleted_at, :at)")


def restore_runs(store: Store, uids: Iterable[str]) -> None:
    """Takes runs out of the bin, as they were."""
    _move(store, uids, "restored", "NULL")


def _move(store: Store, uids: Iterable[str], kind: str, deleted_at: str) -> None:
    with store.writing() as connection:
        for uid in uids:
            refuse_running(connection, uid)
            moved = connection.execute(
                sa.text(
                    f"UPDATE runs SET deleted_at = {deleted_at} WHERE uid = :uid "
                    f"AND deleted_at IS {'NULL' if kind == 'deleted' else 'NOT NULL'}"
                ),
                {"uid": uid, "at": now(connection)},
            )
            if moved.rowcount:
                record_event(connection, uid, kind, "")


def erase_runs(store: Store, uids: Iterable[str]) -> None:
    """Deletes runs for good, with all that is theirs alone; each in a transaction of its own.

    Files of artifacts stay until `collect_garbage`, since other runs may share them.

    Args:
        store: The notebook, open for writing.
        uids: The runs, in the bin or not.

    Raises:
        RunError: If a process works on one of them.
    """
    for uid in uids:
        with store.writing() as connection:
            refuse_running(connection, uid)
            find = sa.text("SELECT id FROM runs WHERE uid = :uid")
            run = {"run": connection.execute(find, {"uid": uid}).scalar()}
            for table in _OWN:
                connection.execute(sa.text(f"DELETE FROM {table} WHERE run_id = :run"), run)
            connection.execute(sa.text("DELETE FROM runs WHERE id = :run"), run)


def refuse_running(connection: sa.Connection, uid: str) -> None:
    """Raises RunError if a process works on a run."""
    row = connection.execute(
        sa.text("SELECT status, host, pid, heartbeat_at FROM runs WHERE uid = :uid"), {"uid": uid}
    ).one_or_none()
    if row is None:
        raise UnknownNameError("run", uid, [], "List them with: mlux runs list")
    if row.status == "running" and liveness.is_worked_on(connection, uid):
        raise RunError(
            f"Process {row.pid} on {row.host} is working on run {uid}. Stop it first, or wait."
        )


def resolve_deleted(store: Store, reference: str) -> str:
    """The uid of a run in the bin.

    Args:
        store: The notebook.
        reference: Its uid, or the start of it if no other run in the bin begins so.

    Raises:
        UnknownNameError: If there is none.
        RunError: If there are several.
    """
    with store.reading() as connection:
        query = sa.text("SELECT uid FROM runs WHERE deleted_at IS NOT NULL ORDER BY id DESC")
        deleted = connection.execute(query).scalars().all()
    found = [uid for uid in deleted if reference and uid.startswith(reference.lower())]
    if not found:
        hint = "List them with: mlux runs list --deleted"
        raise UnknownNameError("deleted run", reference, deleted, hint)
    if len(found) > 1:
        raise RunError(f"{reference!r} is the start of {len(found)} deleted runs: {found}.")
    return str(found[0])


resolve_live = resolve_run


def resolve_any(store: Store, reference: str) -> str:
    """The uid of a run, in the bin or not; one that is not is found first.

    Raises:
        UnknownNameError: If there is none.
        RunError: If there are several.
    """
    try:
        return resolve_run(store, reference)
    except UnknownNameError as error:
        try:
            return resolve_deleted(store, reference)
        except UnknownNameError:
            raise error from None
