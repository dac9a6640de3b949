"""Results of layers, heads and positions as one DataFrame, a number a row.

Ids and numbers are read alone, without a join: the prompt, condition and model of a row follow from
its run and trial, and each name is looked up once.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import sqlalchemy as sa

from mlux.results import BOUNDS
from mlux.store import arrow, frames
from mlux.store.session import Store

Integers = npt.NDArray[np.int64]

_PLACES = ("layer", "head", "position")
# Above so many entries a table of all runs and trials would be larger than the search takes.
_TABLE_ENTRIES = 4_000_000


def layer_results(store: Store, runs: frames.Runs, metric: str | None = None) -> pd.DataFrame:
    """Every number of these runs.

    Args:
        store: The notebook.
        runs: A run, or several.
        metric: Only this metric.

    Returns:
        `run experiment model prompt condition metric layer head position value`, by run, metric,
        trial and place; metrics come as their run declares them. Names are categoricals; places are
        `Int64`, NA where there is none. `attrs["bounds"]` has the ends of bounded metrics, by name.

    Raises:
        UnknownNameError: If there is no such run, or the runs have no such metric.
    """
    with store.reading() as connection:
        keys = sorted(frames.run_keys(store, connection, runs).values())
        _, values = frames.of_metric(connection, keys, metric)
        trials = _trials(connection, keys)
        declared = _declared(connection, keys)
        bounds = _bounds(connection, keys)
    rows = _as_declared(_rows(store, keys, values.get("metrics")), declared)
    ids = _ids(trials, rows)
    with store.reading() as connection:
        table: dict[str, Any] = {
            name: _named(connection, name, ids[name][0], ids[name][1])
            for name in ("run", "experiment", "model", "prompt", "condition")
        }
        # By hashing: np.unique would sort a column as long as the result.
        codes, present = pd.factorize(rows["metric_id"])
        table["metric"] = _named(connection, "metric", present, codes)
    for name in _PLACES:
        table[name] = frames.places(rows[name])
    table["value"] = rows["value"]
    frame = pd.DataFrame(table, copy=False)
    frame.attrs = {"bounds": bounds}
    return frame


def _bounds(
    connection: sa.Connection, keys: Sequence[int]
) -> dict[str, tuple[float, float] | None]:
    """Metric → between which ends its values lie, None where its unit has none."""
    query = sa.text(
        "SELECT k.name, k.unit FROM run_metrics AS m JOIN metrics AS k ON k.id = m.metric_id "
        "WHERE m.run_id IN :runs"
    ).bindparams(sa.bindparam("runs", expanding=True))
    units: dict[str, set[str]] = {}
    for name, unit in connection.execute(query, {"runs": list(keys)}):
        units.setdefault(name, set()).add(unit)
    return {name: BOUNDS.get(found.pop()) for name, found in units.items() if len(found) == 1}


def _trials(connection: sa.Connection, keys: Sequence[int]) -> dict[str, Integers]:
    """Ids of all trials of these runs, by run and trial."""
    names = ("run_id", "trial", "prompt", "condition", "model", "experiment")
    query = sa.text(
        "SELECT t.run_id, t.trial, t.prompt_id, t.condition_id, r.model_id, r.experiment_id "
        "FROM trials AS t JOIN runs AS r ON r.id = t.run_id WHERE t.run_id IN :runs ORDER BY 1, 2"
    ).bindparams(sa.bindparam("runs", expanding=True))
    rows = connection.execute(query, {"runs": list(keys)}).all()
    table = np.array(rows, dtype=np.int64).reshape(-1, len(names))
    found = dict(zip(names, table.T, strict=True))
    return found | {"run": found["run_id"]}


def _rows(
    store: Store, keys: Sequence[int], metrics: Sequence[int] | None
) -> Mapping[str, npt.NDArray[Any]]:
    """Ids, places and values of the rows."""
    only = "" if metrics is None else f"AND metric_id IN ({_list(metrics)})"
    query = (
        "SELECT run_id, metric_id, trial, layer, head, position, value FROM layer_results "
        f"WHERE run_id IN ({_list(keys)}) {only} "
        "ORDER BY run_id, metric_id, trial, layer, head, position"
    )
    names = ("run_id", "metric_id", "trial", *_PLACES, "value")
    found = arrow.columns(store, query)
    if found is None:
        with store.reading() as connection:
            cursor: Any = connection.exec_driver_sql(query).cursor
            rows = cursor.fetchall()
        # Doubles hold every key exactly that a database will ever have given.
        flat = np.fromiter(chain.from_iterable(rows), np.float64, len(rows) * len(names))
        found = dict(zip(names, flat.reshape(-1, len(names)).T, strict=True))
    kinds = {name: np.float64 if name == "value" else np.int64 for name in names}
    return {name: found[name].astype(kind, copy=False) for name, kind in kinds.items()}


def _declared(connection: sa.Connection, keys: Sequence[int]) -> dict[tuple[int, int], int]:
    """Run and metric → the metric's place in the run, by run and metric."""
    query = sa.text(
        "SELECT run_id, metric_id, place FROM run_metrics WHERE run_id IN :runs ORDER BY 1, 2"
    ).bindparams(sa.bindparam("runs", expanding=True))
    rows = connection.execute(query, {"runs": list(keys)}).all()
    return {(run, metric): place for run, metric, place in rows}


def _as_declared(
    rows: Mapping[str, npt.NDArray[Any]], declared: Mapping[tuple[int, int], int]
) -> Mapping[str, npt.NDArray[Any]]:
    """The rows, which come by run and metric, with the metrics of each run in its order."""
    order = [(run, place) for (run, _), place in declared.items()]
    if order == sorted(order) or not len(rows["value"]):
        return rows
    run, metric = rows["run_id"], rows["metric_id"]
    starts = np.flatnonzero((np.diff(run) != 0) | (np.diff(metric) != 0)) + 1
    blocks = [slice(*ends) for ends in pairwise([0, *starts.tolist(), len(run)])]

    def place(block: slice) -> tuple[int, int]:
        key = int(run[block.start]), int(metric[block.start])
        return key[0], declared.get(key, len(declared))

    blocks.sort(key=place)
    return {name: np.concatenate([column[b] for b in blocks]) for name, column in rows.items()}


def _list(ids: Sequence[int]) -> str:
    """Keys as SQL; they are integers that the database itself gave."""
    return ", ".join(str(int(key)) for key in ids)


def _ids(
    trials: Mapping[str, Integers], rows: Mapping[str, npt.NDArray[Any]]
) -> dict[str, tuple[Integers, Integers]]:
    """Name → the ids that occur, and for each row which of them it has."""
    runs = np.unique(trials["run_id"])
    width = int(trials["trial"].max(initial=0)) + 1
    known = np.searchsorted(runs, trials["run_id"]) * width + trials["trial"]
    wanted = np.searchsorted(runs, rows["run_id"]) * width + rows["trial"]
    if len(runs) * width <= _TABLE_ENTRIES:
        table = np.zeros(len(runs) * width, dtype=np.int64)
        table[known] = np.arange(len(known))
        places = table[wanted]
    else:
        places = np.searchsorted(known, wanted)
    # Trials without rows have no say in the categories.
    present = np.flatnonzero(np.bincount(places, minlength=len(known)))
    compact = np.zeros(len(known), dtype=np.int64)
    compact[present] = np.arange(len(present))
    places = compact[places]
    found = {}
    for name in ("run", "experiment", "model", "prompt", "condition"):
        ids, codes = np.unique(trials[name][present], return_inverse=True)
        found[name] = ids, codes[places]
    return found


def _named(
    connection: sa.Connection, kind: str, ids: Integers, codes: Integers
) -> "pd.Categorical[str]":
    """Codes of ids as a categorical of the ids' names."""
    names = frames.named(connection, kind, ids)
    if kind == "metric":  # as they come, not as they were filed
        names = names.reorder_categories(list(dict.fromkeys(names)))
    own = names.codes.astype(np.int64)[codes] if len(ids) else codes
    return pd.Categorical.from_codes(own, categories=names.categories, validate=False)
