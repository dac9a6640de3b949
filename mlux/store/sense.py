"""Whether what a notebook holds makes sense, where no constraint of the database can see it.

Something else wrote it, or a disk did: mlux refuses all of this before it is stored.
"""

import json
import sys
from collections.abc import Callable, Iterator
from datetime import datetime

import sqlalchemy as sa

from mlux.store import merge_hashes
from mlux.store.creation import CONTROL
from mlux.store.liveness import LONG_SILENCE
from mlux.store.merge_source import RefusedError, Source
from mlux.store.session import now
from mlux.store.tables import Base

LAYER_AXIS = "layer_axis"
"""The name in a condition that says that `layer` counts something else."""

IN_PERCENT = "cross_model"
"""Whose runs counted depth in percent before they said so."""

ROUNDING = 1e-3
"""What a log-probability may exceed 0 by; float32 over a large vocabulary is off by 1e-4."""


def nonsense(connection: sa.Connection, run: int | None = None) -> Iterator[str]:
    """What makes no sense in a notebook, one line each.

    Args:
        connection: To the notebook.
        run: The key of a run, to look at what is its own alone.
    """
    for check in _OF_RUNS:
        yield from check(connection, run)
    if run is None:
        yield from _hashes(connection)
        yield from _controls(connection)


def _where(column: str, run: int | None) -> str:
    return "" if run is None else f"WHERE {column} = {run:d}"


def _params(connection: sa.Connection, run: int | None) -> Iterator[str]:
    query = (
        "SELECT r.uid, p.name, p.value FROM run_params AS p JOIN runs AS r ON r.id = p.run_id "
        f"{_where('p.run_id', run)} ORDER BY p.run_id, p.name"
    )
    for uid, name, value in connection.execute(sa.text(query)):
        try:
            json.loads(value, parse_constant=_refuse)
        except ValueError:
            yield f"Run {uid}: the parameter {name!r} is no JSON: {value[:60]!r}."


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _values(connection: sa.Connection, run: int | None) -> Iterator[str]:
    """One pass over the results, which are as many as all else together."""
    query = f"""
    WITH found AS (
      SELECT run_id, metric_id, max(layer) AS layer, max(head) AS head,
        min(value) AS low, max(value) AS high
      FROM layer_results {_where("run_id", run)} GROUP BY run_id, metric_id
    )
    SELECT r.uid, k.name AS metric, f.layer, f.head, f.low, f.high,
      m.n_layers, m.n_heads, d.metric_id AS declared,
      e.name = :in_percent OR EXISTS (
        SELECT 1 FROM trials AS t JOIN condition_values AS c ON c.condition_id = t.condition_id
        WHERE t.run_id = r.id AND c.name = :layer_axis
      ) AS counts_other
    FROM found AS f JOIN runs AS r ON r.id = f.run_id JOIN metrics AS k ON k.id = f.metric_id
      JOIN models AS m ON m.id = r.model_id JOIN experiments AS e ON e.id = r.experiment_id
      LEFT JOIN run_metrics AS d ON d.run_id = f.run_id AND d.metric_id = f.metric_id
    ORDER BY f.run_id, f.metric_id
    """
    named = {"in_percent": IN_PERCENT, "layer_axis": LAYER_AXIS}
    for row in connection.execute(sa.text(query), named).mappings():
        of = f"Run {row['uid']}: {row['metric']}"
        if row["declared"] is None:
            yield f"{of} has values, and the run does not declare it."
        if not _are_finite(row["low"], row["high"]):
            yield f"{of} has a value that is infinite."
        if row["layer"] >= row["n_layers"] and not row["counts_other"]:
            yield f"{of} has a value at layer {row['layer']} of a model of {row['n_layers']}."
        if row["head"] >= row["n_heads"]:
            yield f"{of} has a value at head {row['head']} of a model of {row['n_heads']}."


def _predictions(connection: sa.Connection, run: int | None) -> Iterator[str]:
    query = f"""
    WITH found AS (
      SELECT run_id, max(layer) AS layer, min(logprob) AS low, max(logprob) AS high
      FROM token_predictions {_where("run_id", run)} GROUP BY run_id
    )
    SELECT r.uid, f.layer, f.low, f.high, m.n_layers FROM found AS f
      JOIN runs AS r ON r.id = f.run_id JOIN models AS m ON m.id = r.model_id ORDER BY f.run_id
    """
    for uid, layer, low, high, n_layers in connection.execute(sa.text(query)):
        if layer >= n_layers:
            yield f"Run {uid} has a prediction at layer {layer} of a model of {n_layers}."
        if high > ROUNDING or not _are_finite(low, high):
            worst = low if _are_finite(high) and high <= ROUNDING else high
            yield f"Run {uid} has a log-probability of {worst:.4g}."


def _are_finite(*numbers: float) -> bool:
    largest = sys.float_info.max
    return all(-largest <= number <= largest for number in numbers)


def _floats(connection: sa.Connection, run: int | None) -> Iterator[str]:
    """Other numbers that are infinite; how far off a model's self-test was may be anything."""
    of_run = {"runs": ("seconds", "uid", "id"), "run_params": ("number", "name", "run_id")}
    for table, (column, name, key) in of_run.items():
        largest = {"largest": sys.float_info.max}
        rows = f"(SELECT * FROM {table} {_where(key, run)}) AS found"
        query = f"SELECT {name} FROM {rows} WHERE abs({column}) > :largest"
        for (called,) in connection.execute(sa.text(query), largest):
            yield f"{table}: {column} of {called!r} is infinite."


def _hashes(connection: sa.Connection) -> Iterator[str]:
    """What is known by a hash: prompts and sets of them, conditions, tokenizers, models."""
    source = Source(connection, "The database")
    for table in merge_hashes.TABLES:
        for row in source.rows(f"SELECT * FROM {table} ORDER BY id"):
            try:
                merge_hashes.check(source, table, row)
            except RefusedError as error:
                yield str(error)


def _controls(connection: sa.Connection) -> Iterator[str]:
    """A condition with `control` belongs to the one of the same other values, and no other does."""
    values: dict[int, dict[str, str]] = {}
    for key, name, value in connection.execute(
        sa.text("SELECT condition_id, name, value FROM condition_values")
    ):
        values.setdefault(key, {})[name] = value
    query = "SELECT id, label, controls_id FROM conditions ORDER BY id"
    for key, label, controls in connection.execute(sa.text(query)):
        found = dict(values.get(key, {}))
        wanted = found if found.pop(CONTROL, None) is not None else None
        if (None if controls is None else values.get(controls, {})) != wanted:
            yield f"The condition {label!r} controls another one than that of its other values."


def _times(connection: sa.Connection, run: int | None) -> Iterator[str]:
    """Times that are none, lie ahead, or come in an order that no wrong clock explains."""
    present = datetime.fromisoformat(now(connection))
    for table in Base.metadata.sorted_tables:
        names = [name for name in _ORDER if name in table.columns]
        if not names:
            continue
        key = next((name for name in ("uid", "run_id", "model_id") if name in table.columns), "")
        query = sa.select(table.columns[key], *(table.columns[name] for name in names))
        if run is not None:
            own = "id" if table.name == "runs" else "run_id"
            if own not in table.columns:
                continue
            query = query.where(table.columns[own] == run)
        for called, *texts in connection.execute(query):
            fault = _fault(dict(zip(names, texts, strict=True)), present)
            if fault is not None:
                yield f"{table.name}: {fault}, of {key} {called}."


_ORDER = (
    *("created_at", "started_at", "heartbeat_at", "updated_at", "finished_at", "deleted_at"),
    *("checked_at", "at"),
)


def _fault(texts: dict[str, str | None], present: datetime) -> str | None:
    latest, before = None, ""
    for name, text in texts.items():
        if text is None:
            continue
        try:
            time = datetime.fromisoformat(text)
            ahead = time - present > LONG_SILENCE
        except (TypeError, ValueError):
            return f"{name} is no time: {text[:40]!r}"
        if ahead:
            return f"{name} lies ahead: {text}"
        if latest is not None and latest - time > LONG_SILENCE:
            return f"{name} is before {before}: {text}"
        latest, before = time, name
    return None


_OF_RUNS: tuple[Callable[[sa.Connection, int | None], Iterator[str]], ...] = (
    *(_params, _values, _predictions, _floats, _times),
)
