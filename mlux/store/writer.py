"""Writing results: every trial with its `done` mark in one transaction, so that none is half there.

Rows are tuples sent through the driver connection, sorted by their key: 600,000 values a second,
where SQLAlchemy's `insert` reaches half of that and the ORM a quarter.
"""

from collections.abc import Callable, Sequence
from math import isnan
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from mlux.errors import RunError, StoreError, UnknownNameError
from mlux.provenance import Environment
from mlux.results import NOT_APPLICABLE, Artifact, Generation, TopTokens, Values
from mlux.store import liveness
from mlux.store.creation import create_run, environment_columns, put_versions, spaced
from mlux.store.liveness import record_event
from mlux.store.records import EndStatus, FinishedTrial
from mlux.store.session import Store, insert, now

__all__ = ["RunWriter", "create_run"]

Row = tuple[Any, ...]


class RunWriter:
    """One process working on one run: `start`, any number of `write`, `finish`.

    Args:
        store: The notebook, opened for writing.
        uid: The run.
        token_text: A token's text by its id in the model's vocabulary.

    Raises:
        UnknownNameError: If there is no such run.
    """

    def __init__(self, store: Store, uid: str, token_text: Callable[[int], str]) -> None:
        self._store = store
        self._uid = uid
        self._token_text = token_text
        self._token_keys: dict[int, int] = {}
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

    def start(self, environment: Environment) -> None:
        """Takes the run: it is `running`, its failed trials are pending again.

        Raises:
            RunError: If another process is working on it, or nothing is left to do.
        """
        with self._store.writing() as connection:
            query = "SELECT status, host, pid, heartbeat_at, deleted_at FROM runs WHERE id = :run"
            status, host, pid, heartbeat, deleted = connection.execute(
                sa.text(query), {"run": self._run}
            ).one()
            if deleted is not None:
                raise RunError(f"Run {self._uid} is deleted. Restore it: mlux runs restore")
            if status == "done":
                raise RunError(f"Run {self._uid} is done; nothing is left to do.")
            if status == "running" and liveness.is_alive(self._uid, host, pid, heartbeat):
                raise RunError(f"Process {pid} on {host} is working on run {self._uid}.")
            time = now()
            values = environment_columns(environment) | {"pid": environment.pid, "at": time}
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
                    "UPDATE trials SET status = 'pending', error = NULL, finished_at = NULL "
                    "WHERE run_id = :run AND status = 'failed'"
                ),
                {"run": self._run},
            )
            put_versions(connection, self._run, environment)
            kind = "started" if status == "queued" else "resumed"
            process = f"process {environment.pid} on {environment.host}"
            record_event(connection, self._uid, kind, process)
        self._pid = environment.pid
        liveness.at_work[self._uid] = self

    def write(self, batch: Sequence[FinishedTrial]) -> None:
        """Commits trials with their results; all of the batch or, on an error, none.

        Raises:
            StoreError: If a value is not a number, a place occurs twice, or the disk is full.
            UnknownNameError: If a metric was not declared.
            RunError: If another process has taken the run, or a trial is done already.
        """
        done = [finished for finished in batch if finished.error is None]
        values = self._value_rows(done)
        with self._store.writing() as connection:
            self._beat(connection)
            self._mark(connection, batch)
            keys = self._keys(connection, done)
            try:
                insert(connection, "layer_results", _VALUE_COLUMNS, values)
                insert(connection, "token_predictions", _TOP_COLUMNS, self._top_rows(done, keys))
                insert(connection, "trial_tokens", _TOKEN_COLUMNS, self._token_rows(done, keys))
                insert(connection, "generations", _TEXT_COLUMNS, self._text_rows(done))
            except IntegrityError as error:
                raise StoreError(
                    f"Run {self._uid}: a result is there twice, or at a place that cannot be: "
                    f"{error.orig}."
                ) from error
        # Only now: keys of a transaction that was rolled back would point nowhere.
        self._token_keys = keys

    def put_artifacts(self, artifacts: Sequence[Artifact]) -> None:
        """Keeps arrays that belong to the whole run."""
        if artifacts:
            raise NotImplementedError

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
        self._store.check_in_place()
        with self._store.writing() as connection:
            self._beat(connection)
            pending = connection.execute(
                sa.text("SELECT count(*) FROM trials WHERE run_id = :run AND status = 'pending'"),
                {"run": self._run},
            ).scalar_one()
            if status == "done" and pending:
                raise RunError(f"Run {self._uid} is not done: {pending} trials are pending.")
            connection.execute(
                sa.text(_FINISH),
                {
                    "run": self._run,
                    "status": status,
                    "error": error,
                    "at": now(),
                    "peak": peak_memory_bytes,
                    "fires": hook_fires,
                    "seconds": seconds,
                },
            )
            record_event(connection, self._uid, status, error or "")
        liveness.at_work.pop(self._uid, None)
        self._analyze()

    def _beat(self, connection: sa.Connection) -> None:
        """A sign of life, and proof that the run is still ours."""
        beat = connection.execute(
            sa.text(
                "UPDATE runs SET heartbeat_at = :at "
                "WHERE id = :run AND status = 'running' AND pid = :pid"
            ),
            {"at": now(), "run": self._run, "pid": self._pid},
        )
        if beat.rowcount != 1:
            raise RunError(f"Run {self._uid} is no longer this process's; it was taken over.")

    def _mark(self, connection: sa.Connection, batch: Sequence[FinishedTrial]) -> None:
        time = now()
        for finished in batch:
            marked = connection.execute(
                _MARK,
                {
                    "status": "done" if finished.error is None else "failed",
                    "error": finished.error,
                    "at": time,
                    "run": self._run,
                    "trial": finished.trial,
                },
            )
            if marked.rowcount != 1:
                raise RunError(
                    f"Run {self._uid} has no trial {finished.trial} that is still to be done."
                )

    def _value_rows(self, batch: Sequence[FinishedTrial]) -> list[Row]:
        """Rows of `layer_results`, metric by metric, as the key has them."""
        blocks: dict[tuple[int, int], list[Row]] = {}
        for done in batch:
            for values in done.results:
                if not isinstance(values, Values):
                    continue
                metric = self._metrics.get(values.metric)
                if metric is None:
                    raise UnknownNameError("metric", values.metric, self._metrics)
                rows = [(self._run, metric, done.trial, *row) for row in values.rows()]
                # Before the database does: SQLite would take a NaN for NULL.
                if any(map(isnan, map(itemgetter(-1), rows))):
                    *_, layer, head, position, _ = next(row for row in rows if isnan(row[-1]))
                    place = {"layer": layer, "head": head, "position": position}
                    raise self._nan(values.metric, done.trial, **place)
                blocks.setdefault((metric, done.trial), []).extend(rows)
        return [row for block in sorted(blocks) for row in blocks[block]]

    def _nan(self, what: str, trial: int, **place: int) -> StoreError:
        places = [f"{axis} {at}" for axis, at in place.items() if at != NOT_APPLICABLE]
        where = f" at {', '.join(places)}" if places else ""
        return StoreError(
            f"Run {self._uid}, trial {trial}: {what} is not a number{where}. "
            "Nothing of its batch was stored."
        )

    def _top_rows(self, batch: Sequence[FinishedTrial], keys: dict[int, int]) -> list[Row]:
        rows = [
            (self._run, done.trial, top.layer, top.position, rank, keys[token], float(logprob))
            for done in batch
            for top in done.results
            if isinstance(top, TopTokens)
            for rank, (token, logprob) in enumerate(zip(top.token_ids, top.logprobs, strict=True))
        ]
        for _, trial, layer, position, _, _, logprob in rows:
            if isnan(logprob):
                raise self._nan("log probability", trial, layer=layer, position=position)
        return sorted(rows)

    def _token_rows(self, batch: Sequence[FinishedTrial], keys: dict[int, int]) -> list[Row]:
        return sorted(
            (self._run, done.trial, role, position, keys[token])
            for done in batch
            for role, tokens in done.tokens.items()
            for position, token in enumerate(tokens)
        )

    def _text_rows(self, batch: Sequence[FinishedTrial]) -> list[Row]:
        return sorted(
            (self._run, done.trial, made.sample, _storable(made.text), spaced(made.token_ids))
            for done in batch
            for made in done.results
            if isinstance(made, Generation)
        )

    def _keys(self, connection: sa.Connection, batch: Sequence[FinishedTrial]) -> dict[int, int]:
        """Model's token id → key in `tokens`, where those that are new are filed."""
        wanted = {token for done in batch for ids in done.tokens.values() for token in ids}
        for done in batch:
            for top in done.results:
                if isinstance(top, TopTokens):
                    wanted.update(top.token_ids)
        new = sorted(wanted - self._token_keys.keys())
        if not new:
            return self._token_keys
        rows = [(self._tokenizer, token, _storable(self._token_text(token))) for token in new]
        columns = "tokenizer_id, token_id, text"
        insert(connection, "tokens", columns, rows, "ON CONFLICT DO NOTHING")
        query = sa.text(
            "SELECT token_id, id FROM tokens WHERE tokenizer_id = :tokenizer AND token_id IN :new"
        ).bindparams(sa.bindparam("new", expanding=True))
        keys = dict(self._token_keys)
        for start in range(0, len(new), 30_000):
            part = {"tokenizer": self._tokenizer, "new": new[start : start + 30_000]}
            keys |= dict(connection.execute(query, part).all())
        return keys

    def _analyze(self) -> None:
        """Tells SQLite how its tables are filled: joins of many runs become much faster."""
        if self._store.path is not None:
            with self._store.writing() as connection:
                # A sample of each index is enough, and takes milliseconds at any size.
                connection.exec_driver_sql("PRAGMA analysis_limit = 400")
                connection.exec_driver_sql("ANALYZE")


_VALUE_COLUMNS = "run_id, metric_id, trial, layer, head, position, value"
_TOP_COLUMNS = "run_id, trial, layer, position, rank, token, logprob"
_TOKEN_COLUMNS = "run_id, trial, role, position, token"
_TEXT_COLUMNS = "run_id, trial, sample, text, token_ids"

_MARK = sa.text(
    "UPDATE trials SET status = :status, error = :error, finished_at = :at "
    "WHERE run_id = :run AND trial = :trial AND status <> 'done'"
)
# Cast, because PostgreSQL has to know the type of what may be NULL.
_FINISH = """
UPDATE runs SET status = :status, error = :error, finished_at = :at,
  peak_memory_bytes = CASE WHEN :peak > coalesce(peak_memory_bytes, -1) THEN :peak
    ELSE peak_memory_bytes END,
  hook_fires = CASE WHEN CAST(:fires AS BIGINT) IS NULL THEN hook_fires
    ELSE coalesce(hook_fires, 0) + :fires END,
  seconds = CASE WHEN CAST(:seconds AS DOUBLE PRECISION) IS NULL THEN seconds
    ELSE coalesce(seconds, 0) + :seconds END
WHERE id = :run
"""


def _storable(text: str) -> str:
    """Text as UTF-8 can carry it: half a surrogate pair, which some tokens are, becomes a mark."""
    return text.encode("utf-8", "replace").decode()
