"""Writing results: every trial with its `done` mark in one transaction, so that none is half there.

Rows go through the driver connection, sorted by their key: SQLAlchemy's `insert` reaches half of
that speed and the ORM a quarter.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from mlux.errors import RunError, StoreError, UnknownNameError
from mlux.provenance import Environment, TokenText
from mlux.results import Artifact
from mlux.store import liveness, rows, sharing
from mlux.store.creation import create_run, environment_columns, put_versions
from mlux.store.heartbeat import Heartbeat
from mlux.store.liveness import record_event
from mlux.store.records import EndStatus, FinishedTrial
from mlux.store.session import Store, execute_many, insert, later, now

if TYPE_CHECKING:
    from mlux.store.artifacts import Placed

__all__ = ["RunWriter", "create_run"]


class RunWriter:
    """One process working on one run: `start`, any number of `write`, `finish`.

    With `start(…, share=True)` several processes may work on it; each then takes its trials with
    `claim` before it computes them.

    Args:
        store: The notebook, opened for writing.
        uid: The run.
        token_text: What a token is called, by its id in the model's vocabulary.

    Raises:
        UnknownNameError: If there is no such run.
    """

    def __init__(self, store: Store, uid: str, token_text: Callable[[int], TokenText]) -> None:
        self._store = store
        self._uid = uid
        self._token_text = token_text
        self._token_keys: dict[int, int] = {}
        self._worker: int | None = None
        self._heartbeat: Heartbeat | None = None
        self._beaten: str | None = None  # the last sign of life; each is later than the one before
        with store.reading() as connection:
            row = connection.execute(
                sa.text(
                    "SELECT r.id, m.tokenizer_id FROM runs AS r "
                    "JOIN models AS m ON m.id = r.model_id WHERE r.uid = :uid"
                ),
                {"uid": uid},
            ).one_or_none()
            if row is None:
                raise UnknownNameError("run", uid, [], "List them with: mlux runs list")
            self._run, self._tokenizer = row
            metrics = sa.text(
                "SELECT m.name, m.id FROM run_metrics AS r "
                "JOIN metrics AS m ON m.id = r.metric_id WHERE r.run_id = :run"
            )
            self._metrics: dict[str, int] = dict(
                connection.execute(metrics, {"run": self._run}).all()
            )

    def start(self, environment: Environment, *, share: bool = False) -> None:
        """Takes the run: it is `running`, its failed trials are pending again.

        Args:
            environment: Where this process runs.
            share: Whether other processes may work on it too. If some do already, this one joins
                them, and what they found failed stays so.

        Raises:
            RunError: If it cannot be taken: it is deleted, another process works on it and does
                not share it, or nothing is left to do.
        """
        with self._store.writing() as connection:
            self._lock(connection)
            query = "SELECT status, host, pid, heartbeat_at, deleted_at FROM runs WHERE id = :run"
            status, host, pid, heartbeat, deleted = connection.execute(
                sa.text(query), {"run": self._run}
            ).one()
            if deleted is not None:
                raise RunError(f"Run {self._uid} is deleted. Restore it: mlux runs restore")
            if status == "done":
                raise RunError(f"Run {self._uid} is done; nothing is left to do.")
            sharing.dismiss_dead(connection, self._run, self._uid)
            shared = sharing.n_at_work(connection, self._run) > 0
            taken = status == "running" and (
                shared or liveness.is_alive(connection, self._uid, host, pid, heartbeat)
            )
            if taken and not (shared and share):
                raise RunError(f"Process {pid} on {host} is working on run {self._uid}.")
            if not taken:
                self._beaten = later(now(connection), heartbeat)
                self._begin(connection, environment, resumed=status != "queued")
            if share:
                self._worker = sharing.join(connection, self._run, environment)
        self._pid = environment.pid
        liveness.at_work[self._uid] = self
        self._heartbeat = Heartbeat(self._sign)

    def _begin(self, connection: sa.Connection, environment: Environment, *, resumed: bool) -> None:
        values = environment_columns(environment) | {"pid": environment.pid, "at": self._beaten}
        changes = ", ".join(f"{name} = :{name}" for name in values if name != "at")
        connection.execute(
            sa.text(
                f"UPDATE runs SET {changes}, status = 'running', heartbeat_at = :at, "
                "started_at = coalesce(started_at, :at), finished_at = NULL, error = NULL "
                "WHERE id = :run"
            ),
            values | {"run": self._run},
        )
        connection.execute(
            sa.text(
                "UPDATE trials SET status = 'pending', error = NULL, finished_at = NULL, "
                "worker = NULL WHERE run_id = :run AND status <> 'done'"
            ),
            {"run": self._run},
        )
        put_versions(connection, self._run, environment)
        process = f"process {environment.pid} on {environment.host}"
        record_event(connection, self._uid, "resumed" if resumed else "started", process)

    def claim(self, trials: Sequence[int]) -> list[int]:
        """Takes those of these trials that nobody else does or did; only of a shared run.

        Returns:
            The trials that are now this process's, to be computed and written by it.
        """
        assert self._worker is not None, "start(…, share=True) comes first"
        with self._store.writing() as connection:
            self._beat(connection)
            return sharing.claim(connection, self._run, self._uid, self._worker, trials)

    def write(self, batch: Sequence[FinishedTrial]) -> None:
        """Commits trials with their results; all of the batch or, on an error, none.

        Raises:
            StoreError: If a value is not finite, a place occurs twice, or the disk is full.
            UnknownNameError: If a metric was not declared.
            RunError: If another process has taken the run, or a trial is done already.
        """
        done = [finished for finished in batch if finished.error is None]
        values = rows.value_rows(self._run, done, self._metrics)
        arrays = self._place([(t.trial, r) for t in done for r in t.results])
        with self._store.writing() as connection:
            self._beat(connection)
            self._mark(connection, batch)
            keys = self._keys(connection, done)
            tops = rows.top_rows(self._run, done, keys)
            try:
                insert(connection, "layer_results", rows.VALUES, values)
                insert(connection, "token_predictions", rows.TOP_TOKENS, tops)
                insert(
                    connection,
                    "trial_tokens",
                    rows.TRIAL_TOKENS,
                    rows.token_rows(self._run, done, keys),
                )
                insert(connection, "generations", rows.GENERATIONS, rows.text_rows(self._run, done))
                self._put(connection, arrays)
            except IntegrityError as error:
                raise StoreError(
                    f"Run {self._uid}: a result is there twice, or at a place that cannot be: "
                    f"{error.orig}."
                ) from error
        # Only now: keys of a transaction that was rolled back would point nowhere.
        self._token_keys = keys

    def put_artifacts(self, artifacts: Sequence[Artifact], *, learned: str | None = None) -> None:
        """Keeps arrays that belong to the whole run; those that are there already stay.

        A resumed run makes them again. Should they then differ, the run's history says so.

        Args:
            artifacts: The arrays.
            learned: What they show, for the run's history.

        Raises:
            StoreError: If two have the same name, or the disk refuses.
            RunError: If another process has taken the run.
        """
        names = [artifact.name for artifact in artifacts]
        if len(set(names)) < len(names):
            raise StoreError(f"Run {self._uid} has two artifacts of one name: {', '.join(names)}.")
        placed = self._place([(None, artifact) for artifact in artifacts])
        if not placed:
            return
        known = sa.text("SELECT name, sha256 FROM artifacts WHERE run_id = :run AND trial IS NULL")
        with self._store.writing() as connection:
            self._beat(connection)
            before: dict[str, str] = dict(connection.execute(known, {"run": self._run}).all())
            new = [one for one in placed if one.artifact.name not in before]
            self._put(connection, new)
            if new and learned is not None:
                record_event(connection, self._uid, "learned", learned)
            for one in placed:
                if before.get(one.artifact.name, one.sha256) != one.sha256:
                    message = f"made again, artifact {one.artifact.name!r} is not as it was"
                    record_event(connection, self._uid, "differs", message)

    def artifact(self, name: str) -> "dict[str, Any] | None":
        """The arrays of the whole run that have this name; None if they are not there, or lost."""
        query = "SELECT 1 FROM artifacts WHERE run_id = :run AND trial IS NULL AND name = :name"
        with self._store.reading() as connection:
            values = {"run": self._run, "name": name}
            if connection.execute(sa.text(query), values).one_or_none() is None:
                return None
        from mlux.store.artifacts import load

        with suppress(StoreError):  # a file that is lost is made again
            return load(self._store, self._uid, name)
        return None

    def _place(self, results: Sequence[tuple[int | None, object]]) -> "list[Placed]":
        artifacts = [(trial, one) for trial, one in results if isinstance(one, Artifact)]
        if not artifacts:
            return []
        from mlux.store.artifacts import folder, place

        home = folder(self._store)
        return [place(home, one, trial) for trial, one in artifacts]

    def _put(self, connection: sa.Connection, placed: "Sequence[Placed]") -> None:
        if placed:
            from mlux.store.artifacts import folder, insert_rows

            insert_rows(connection, folder(self._store), self._run, placed)

    def finish(
        self,
        status: EndStatus,
        *,
        error: str | None = None,
        peak_memory_bytes: int | None = None,
        hook_fires: int | None = None,
        seconds: float | None = None,
    ) -> None:
        """Ends the work on the run; it can be resumed unless it is `done`.

        Of several processes that share the run, the last one to finish ends it.

        Args:
            status: How it ended: `done`, `failed`, or `crashed` if it was stopped.
            error: Why, if it is not done.
            peak_memory_bytes: The most memory that MLX held.
            hook_fires: How often hooks ran; added to that of earlier starts.
            seconds: Time spent computing; added likewise.

        Raises:
            RunError: If it is said to be done with trials pending.
            StoreError: If the notebook's file was removed or replaced during the run.
        """
        if self._heartbeat is not None:
            self._heartbeat.stop()
        self._store.check_in_place()
        costs = {"peak": peak_memory_bytes, "fires": hook_fires, "seconds": seconds}
        with self._store.writing() as connection:
            self._lock(connection)
            self._beat(connection)
            if self._worker is not None:
                sharing.leave(connection, self._run, self._worker)
                sharing.dismiss_dead(connection, self._run, self._uid)
            connection.execute(sa.text(_COSTS), costs | {"run": self._run})
            if not sharing.hand_over(connection, self._run):
                self._end(connection, status, error)
        if liveness.at_work.get(self._uid) is self:
            del liveness.at_work[self._uid]
        self._analyze()

    def _end(self, connection: sa.Connection, status: EndStatus, error: str | None) -> None:
        query = "SELECT count(*) FROM trials WHERE run_id = :run AND status = :status"
        n_pending, n_failed = (
            connection.execute(sa.text(query), {"run": self._run, "status": state}).scalar_one()
            for state in ("pending", "failed")
        )
        if status == "done" and n_pending:
            raise RunError(f"Run {self._uid} is not done: {n_pending} trials are pending.")
        if self._worker is not None and status == "done" and n_failed:
            # Perhaps those of another worker.
            status, error = "failed", f"{n_failed} trials failed"
        connection.execute(
            sa.text(
                "UPDATE runs SET status = :status, error = :error, finished_at = :at "
                "WHERE id = :run"
            ),
            {"run": self._run, "status": status, "error": error, "at": self._beaten},
        )
        record_event(connection, self._uid, status, error or "")

    def _sign(self) -> None:
        if not self._store.is_open:
            raise RunError(f"{self._store.location} was closed with run {self._uid} under way.")
        with self._store.writing() as connection:
            self._beat(connection)

    def _beat(self, connection: sa.Connection) -> None:
        """A sign of life, and proof that the run is still ours."""
        statement = _BEAT if self._worker is None else sharing.BEAT
        self._beaten = later(now(connection), self._beaten)
        values = {"at": self._beaten, "run": self._run, "pid": self._pid, "worker": self._worker}
        if connection.execute(sa.text(statement), values).rowcount != 1:
            raise RunError(f"Run {self._uid} is no longer this process's; it was taken over.")

    def _lock(self, connection: sa.Connection) -> None:
        """Keeps others from the run until the transaction ends; on SQLite it does so anyway."""
        connection.execute(
            sa.text("UPDATE runs SET status = status WHERE id = :run"), {"run": self._run}
        )

    def _mark(self, connection: sa.Connection, batch: Sequence[FinishedTrial]) -> None:
        time, worker = self._beaten, -1 if self._worker is None else self._worker
        marks = [
            (
                "done" if one.error is None else "failed",
                one.error or one.unsolved,
                time,
                self._run,
                one.trial,
                worker,
            )
            for one in batch
        ]
        if execute_many(connection, _MARK, marks) == len(marks):
            return
        # Those that could be marked bear this time by now; the others are the culprits.
        query = sa.text("SELECT trial FROM trials WHERE run_id = :run AND finished_at = :at")
        marked = set(connection.execute(query, {"run": self._run, "at": time}).scalars())
        wrong = next((one.trial for one in batch if one.trial not in marked), batch[-1].trial)
        raise RunError(f"Run {self._uid} has no trial {wrong} that is still to be done.")

    def _keys(self, connection: sa.Connection, batch: Sequence[FinishedTrial]) -> dict[int, int]:
        """Model's token id → key in `tokens`, where those that are new are filed."""
        new = sorted(rows.token_ids(batch) - self._token_keys.keys())
        if not new:
            return self._token_keys
        if not self._token_keys:
            self._learn(connection)
        texts = [(token, self._token_text(token)) for token in new]
        found = rows.token_text_rows(self._tokenizer, texts)
        insert(connection, "tokens", rows.TOKENS, found, _UNLESS_THERE)
        query = sa.text(
            "SELECT token_id, id FROM tokens WHERE tokenizer_id = :tokenizer AND token_id IN :new"
        ).bindparams(sa.bindparam("new", expanding=True))
        keys = dict(self._token_keys)
        for start in range(0, len(new), 30_000):
            part = {"tokenizer": self._tokenizer, "new": new[start : start + 30_000]}
            keys |= dict(connection.execute(query, part).all())
        return keys

    def _learn(self, connection: sa.Connection) -> None:
        """Fills in the tokens that an earlier mlux filed by their decoded text alone.

        No other row is changed: PostgreSQL would lock it, and processes that write at once, each
        with a reference to a token that another one holds, would wait for each other.
        """
        unknown = connection.execute(_UNKNOWN, {"tokenizer": self._tokenizer}).scalars()
        texts = [(token, self._token_text(token)) for token in sorted(unknown)]
        learned = [
            (piece, shown, tokenizer, token)
            for tokenizer, token, _, piece, shown in rows.token_text_rows(self._tokenizer, texts)
            if piece is not None
        ]
        execute_many(connection, _LEARN, learned)

    def _analyze(self) -> None:
        """Tells SQLite how its tables are filled: joins of many runs become much faster."""
        if self._store.path is not None:
            with self._store.writing() as connection:
                # A sample of each index is enough, and takes milliseconds at any size.
                connection.exec_driver_sql("PRAGMA analysis_limit = 400")
                connection.exec_driver_sql("ANALYZE")


_UNKNOWN = sa.text("SELECT token_id FROM tokens WHERE tokenizer_id = :tokenizer AND piece IS NULL")
_LEARN = "UPDATE tokens SET piece = ?, shown = ? WHERE tokenizer_id = ? AND token_id = ?"
_UNLESS_THERE = "ON CONFLICT (tokenizer_id, token_id) DO NOTHING"
_BEAT = "UPDATE runs SET heartbeat_at = :at WHERE id = :run AND status = 'running' AND pid = :pid"
_MARK = """
UPDATE trials SET status = ?, error = ?, finished_at = ?
WHERE run_id = ? AND trial = ? AND status <> 'done' AND coalesce(worker, -1) = ?
"""
# Cast, because PostgreSQL has to know the type of what may be NULL.
_COSTS = """
UPDATE runs SET
  peak_memory_bytes = CASE WHEN :peak > coalesce(peak_memory_bytes, -1) THEN :peak
    ELSE peak_memory_bytes END,
  hook_fires = CASE WHEN CAST(:fires AS BIGINT) IS NULL THEN hook_fires
    ELSE coalesce(hook_fires, 0) + :fires END,
  seconds = CASE WHEN CAST(:seconds AS DOUBLE PRECISION) IS NULL THEN seconds
    ELSE coalesce(seconds, 0) + :seconds END
WHERE id = :run
"""
