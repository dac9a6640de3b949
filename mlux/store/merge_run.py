"""One run of another notebook: taken whole, or what it lacks here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mlux.store import artifacts, liveness
from mlux.store.merge_rows import OF_RUN, Copier, check_types, columns_of
from mlux.store.merge_source import RefusedError, Source
from mlux.store.sense import nonsense
from mlux.store.session import Store, now

_RESULTS = ("layer_results", "token_predictions", "trial_tokens", "generations", "artifacts")
# What a resume changes in a run's row.
_PROGRESS = (
    *("status", "error", "device", "host", "pid", "platform", "started_at", "heartbeat_at"),
    *("finished_at", "seconds", "peak_memory_bytes", "hook_fires", "git_commit", "git_dirty"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run to be taken.

    Attributes:
        source: Where it is.
        home: The folder of that notebook's artifacts.
        target: Where it is to be.
        row: Its row there.
    """

    source: Source
    home: Path
    target: Store
    row: dict[str, Any]

    @property
    def uid(self) -> str:
        """Its name, the same everywhere."""
        return str(self.row["uid"])


def take(run: Run) -> int | None:
    """Takes a run in one transaction.

    Returns:
        How many trials were taken of a run that was here already; None if it is new.

    Raises:
        RefusedError: If it is not what a notebook of mlux holds; nothing of it is taken.
        sqlalchemy.exc.DBAPIError: If a constraint of the tables refuses it.
    """
    if not (run.uid.isascii() and run.uid.isalnum() and len(run.uid) <= 64):
        raise RefusedError(f"{run.uid[:20]!r} is no run's name.")
    check_types("runs", [run.row])
    files = run.source.rows(
        "SELECT name, sha256, bytes FROM artifacts WHERE run_id = :run", run=run.row["id"]
    )
    _bring(run, files)
    with run.target.writing() as connection:
        artifacts.hold(connection, exclusive=False)
        # Before they had a row, `gc` may have removed them again.
        _bring(run, files)
        copier = Copier(run.source, connection)
        here = _row(connection, run.uid)
        if here is None:
            _take_whole(run, copier, connection)
            taken = None
        else:
            taken = _complete(run, copier, connection, here)
        _refuse_nonsense(connection, run.uid)
        return taken


def _refuse_nonsense(connection: sa.Connection, uid: str) -> None:
    """Raises RefusedError if the run, as it is here now, holds what mlux would not have stored."""
    here = _row(connection, uid)
    assert here is not None
    fault = next(nonsense(connection, here["id"]), None)
    if fault is not None:
        raise RefusedError(fault)


def _bring(run: Run, files: list[dict[str, Any]]) -> None:
    """Copies the files of a run's artifacts, unless they are here."""
    check_types("artifacts", files)
    for row in files:
        try:
            home = artifacts.folder(run.target)
            artifacts.bring(run.home, home, row["sha256"], row["bytes"])
        except artifacts.UnusableError as error:
            raise RefusedError(f"Of artifact {row['name']!r} {error}.") from error


def _row(connection: sa.Connection, uid: str) -> dict[str, Any] | None:
    query = sa.text("SELECT * FROM runs WHERE uid = :uid")
    found = connection.execute(query, {"uid": uid}).mappings().one_or_none()
    return None if found is None else dict(found)


def _references(run: Run, copier: Copier) -> dict[str, int]:
    """The columns of a run's row that refer to what several runs share, as they are here."""
    return {
        column: copier.keys(table, [run.row[column]])[run.row[column]]
        for column, table in (
            ("experiment_id", "experiments"),
            ("model_id", "models"),
            ("prompt_set_id", "prompt_sets"),
        )
    }


def _progress(run: Run) -> dict[str, Any]:
    """How far the run got there; nobody here works on one that is being worked on there."""
    values = {name: run.row[name] for name in _PROGRESS}
    return values | ({"status": "crashed"} if run.row["status"] == "running" else {})


def _take_whole(run: Run, copier: Copier, connection: sa.Connection) -> None:
    values = {name: run.row[name] for name in columns_of("runs")}
    values |= _references(run, copier) | _progress(run)
    marks = ", ".join(f":{name}" for name in values)
    connection.execute(sa.text(f"INSERT INTO runs ({', '.join(values)}) VALUES ({marks})"), values)
    here = _row(connection, run.uid)
    assert here is not None
    for table in OF_RUN:
        copier.copy(table, run.row["id"], here["id"])
    if run.row["status"] == "running":
        message = f"It was still running in {run.source.location} when it was merged"
        liveness.record_event(connection, run.uid, "crashed", message)


def _complete(run: Run, copier: Copier, connection: sa.Connection, here: dict[str, Any]) -> int:
    """Takes what the run here lacks; how many trials that are."""
    theirs = _references(run, copier)
    if any(here[column] != key for column, key in theirs.items()):
        raise RefusedError("It is another run there than here.")
    _annotate(run, copier, connection, here)
    if here["status"] == "running" and liveness.is_worked_on(connection, run.uid):
        return 0
    there = {row["trial"]: row for row in _trials(run)}
    states: dict[int, str] = dict(
        connection.execute(
            sa.text("SELECT trial, status FROM trials WHERE run_id = :run"), {"run": here["id"]}
        ).all()
    )
    taken = [
        trial
        for trial, row in there.items()
        if (states.get(trial, ""), row["status"])
        in (("pending", "done"), ("failed", "done"), ("pending", "failed"))
    ]
    if not taken:
        return 0
    for trial in taken:
        row = {name: there[trial][name] for name in ("trial", "status", "error", "finished_at")}
        connection.execute(_MARK, row | {"run": here["id"]})
    for table in _RESULTS:
        copier.copy(table, run.row["id"], here["id"], taken)
    _settle(run, copier, connection, here, [*states.values()].count("done"))
    return len(taken)


def _settle(
    run: Run, copier: Copier, connection: sa.Connection, here: dict[str, Any], done_here: int
) -> None:
    """How far the run is now, after trials were taken.

    If more was done there than here, the run there is the later one, and says where and how long.
    """
    changes: dict[str, Any] = {}
    if sum(row["status"] == "done" for row in _trials(run)) > done_here:
        changes = _progress(run)
        key = {"run": here["id"]}
        connection.execute(sa.text("DELETE FROM run_versions WHERE run_id = :run"), key)
        copier.copy("run_versions", run.row["id"], here["id"])
    pending = sa.text("SELECT count(*) FROM trials WHERE run_id = :run AND status = 'pending'")
    left = connection.execute(pending, {"run": here["id"]}).scalar_one()
    status = changes.get("status", here["status"])
    if left and status == "done":
        changes["status"] = "crashed"
    elif not left and status != "done":
        ended = changes.get("finished_at") or now(connection)
        changes |= {"status": "done", "error": None, "finished_at": ended}
    if changes:
        sets = ", ".join(f"{name} = :{name}" for name in changes)
        connection.execute(
            sa.text(f"UPDATE runs SET {sets} WHERE id = :run"), changes | {"run": here["id"]}
        )


def _trials(run: Run) -> list[dict[str, Any]]:
    query = "SELECT trial, status, error, finished_at FROM trials WHERE run_id = :run"
    return run.source.rows(query, run=run.row["id"])


def _annotate(run: Run, copier: Copier, connection: sa.Connection, here: dict[str, Any]) -> None:
    """Tags, note, events and artifacts of the whole run that only the other notebook has."""
    key = {"run": here["id"]}
    if here["note"] is None and run.row["note"] is not None:
        connection.execute(
            sa.text("UPDATE runs SET note = :note WHERE id = :run"), key | {"note": run.row["note"]}
        )
    for table, same, but in (
        ("run_tags", ("name",), ""),
        ("run_events", ("at", "kind", "message"), ""),
        ("artifacts", ("name",), " AND trial IS NULL"),
    ):
        names = [name for name in columns_of(table) if name != "run_id"]
        query = f"SELECT {', '.join(names)} FROM {table} WHERE run_id = :run{but}"
        known = {
            tuple(row[name] for name in same)
            for row in connection.execute(sa.text(query), key).mappings()
        }
        marks = ", ".join(f":{name}" for name in names)
        statement = sa.text(
            f"INSERT INTO {table} (run_id, {', '.join(names)}) VALUES (:run, {marks})"
        )
        theirs = run.source.rows(query, run=run.row["id"])
        for row in theirs:
            if tuple(row[name] for name in same) not in known:
                connection.execute(statement, row | key)


_MARK = sa.text(
    "UPDATE trials SET status = :status, error = :error, finished_at = :finished_at, worker = NULL "
    "WHERE run_id = :run AND trial = :trial"
)
