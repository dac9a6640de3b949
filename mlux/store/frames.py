"""Results as pandas columns: ids are fetched, and become names once for each id, not each row."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
import sqlalchemy as sa

from mlux.errors import ParameterError, UnknownNameError
from mlux.results import NOT_APPLICABLE
from mlux.store.reader import resolve_run
from mlux.store.session import Store
from mlux.store.session import opened as opened


class HasUid(Protocol):
    """Anything that knows which run it is."""

    @property
    def uid(self) -> str:
        """The run's uid."""


RunReference: TypeAlias = str | HasUid
Runs: TypeAlias = RunReference | Sequence[RunReference]
Database: TypeAlias = str | Path | Store | None
"""A path, a URL or an open store; None is `$MLUX_DB`, else `mlux.db`."""

KEYS = {
    "run": "v.run_id",
    "layer": "v.layer",
    "head": "v.head",
    "position": "v.position",
    "prompt": "t.prompt_id",
    "condition": "t.condition_id",
    "model": "r.model_id",
    "experiment": "r.experiment_id",
}
"""What can be grouped by → its column."""

FROM_TRIALS = """
JOIN runs AS r ON r.id = v.run_id
JOIN trials AS t ON t.run_id = v.run_id AND t.trial = v.trial
WHERE v.run_id IN :runs
"""

_NAMES = {
    "run": "SELECT id, uid FROM runs",
    "prompt": "SELECT id, text FROM prompts",
    "condition": "SELECT id, label FROM conditions",
    "model": "SELECT id, label FROM models",
    "experiment": "SELECT id, name FROM experiments",
    "metric": "SELECT id, name FROM metrics",
    "token": "SELECT id, shown FROM tokens",
}
_NULLABLE = ("layer", "head", "position")


def run_keys(store: Store, connection: sa.Connection, runs: Runs) -> dict[str, int]:
    """Uid → key of each run that is meant, in the order given.

    Raises:
        UnknownNameError: If there is no such run.
        ParameterError: If what is given names no run.
    """
    uids = [resolve_run(store, name) for name in _references(runs)]
    query = _expanding("SELECT uid, id FROM runs WHERE uid IN :uids", "uids")
    found: dict[str, int] = dict(connection.execute(query, {"uids": uids}).all())
    return {uid: found[uid] for uid in uids}


def _references(runs: Any) -> list[str]:
    """What a person gave as names of runs."""
    if isinstance(runs, pd.DataFrame):
        raise ParameterError("Of a DataFrame of runs give the column: frame['run'].")
    one = isinstance(runs, str) or hasattr(runs, "uid") or not isinstance(runs, Iterable)
    given = [runs] if one else list(runs)
    if not given:
        raise ParameterError("No runs are given. List them with compare.runs() or mlux runs list.")
    for run in given:
        if not isinstance(getattr(run, "uid", run), str):
            raise ParameterError(
                f"{run!r} names no run; give a uid, the start of one, 'latest', or a Run."
            )
    return [getattr(run, "uid", run) for run in given]


def of_metric(
    connection: sa.Connection, keys: Sequence[int], metric: str | None
) -> tuple[str, dict[str, Any]]:
    """What to add to a WHERE clause for a metric of these runs, and the values it needs.

    Raises:
        UnknownNameError: If none of the runs has it.
    """
    if metric is None:
        return "", {"runs": list(keys)}
    query = _expanding(
        "SELECT DISTINCT m.name, m.id FROM run_metrics AS r "
        "JOIN metrics AS m ON m.id = r.metric_id WHERE r.run_id IN :runs",
        "runs",
    )
    known = connection.execute(query, {"runs": list(keys)}).all()
    ids = [key for name, key in known if name == metric]
    if not ids:
        raise UnknownNameError("metric in these runs", metric, [name for name, _ in known])
    return "AND v.metric_id IN :metrics", {"runs": list(keys), "metrics": ids}


def frame(
    connection: sa.Connection, query: str, values: Mapping[str, Any], names: str
) -> pd.DataFrame:
    """The rows of a query as typed columns.

    Args:
        connection: An open connection.
        query: A SELECT of ids and numbers.
        values: What it is given; all of them lists.
        names: A name for each column. One that stands for ids is filled with their names; layer,
            head and position are NA where there is none.
    """
    rows = connection.execute(_expanding(query, *values), values).all()
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names.split())
    return pd.DataFrame(
        {
            name: _typed(connection, name, column)
            for name, column in zip(names.split(), columns, strict=True)
        }
    )


def _typed(connection: sa.Connection, name: str, column: Sequence[Any]) -> Any:
    if name in _NAMES:
        return named(connection, name, np.asarray(column, dtype=np.int64))
    if name in _NULLABLE:
        return places(np.asarray(column, dtype=np.int64))
    if name in ("value", "total"):
        return np.asarray(column, dtype=np.float64)
    if name == "text":
        return pd.Series(column, dtype="str")
    return np.asarray(column, dtype=np.int64)


def places(column: np.ndarray[Any, np.dtype[np.int64]]) -> pd.arrays.IntegerArray:
    """Layers, heads or positions, NA where there is none."""
    return pd.arrays.IntegerArray(column, column == NOT_APPLICABLE)


def named(connection: sa.Connection, kind: str, ids: np.ndarray[Any, Any]) -> "pd.Categorical[str]":
    """Ids as a categorical of their names, in the order in which they were first filed."""
    present, codes = np.unique(ids, return_inverse=True)
    found: dict[int, str] = {}
    query = _expanding(f"{_NAMES[kind]} WHERE id IN :ids", "ids")
    for start in range(0, len(present), 30_000):
        part = present[start : start + 30_000].tolist()
        found |= dict(connection.execute(query, {"ids": part}).all())
    # Two prompts may have the same text and differ in their answer; a category is one text.
    texts = [found[key] for key in present.tolist()]
    categories = list(dict.fromkeys(texts))
    order = {text: place for place, text in enumerate(categories)}
    name_codes = np.array([order[text] for text in texts], dtype=np.int64)
    return pd.Categorical.from_codes(name_codes[codes], categories=pd.Index(categories))


def sums(
    connection: sa.Connection, keys: Mapping[str, int], metric: str, groups: Sequence[str]
) -> pd.DataFrame:
    """Sum and count of a metric in each group, added up by the database.

    Args:
        connection: An open connection.
        keys: Uid → key of the runs.
        metric: The metric.
        groups: Names of `KEYS`; `prompt_id` and `condition_id` stay ids.

    Returns:
        `groups`, `total` and `n`.
    """
    where, values = of_metric(connection, list(keys.values()), metric)
    columns = [KEYS[name.removesuffix("_id")] for name in groups]
    query = (
        f"SELECT {', '.join([*columns, 'sum(v.value)', 'count(*)'])} "
        f"FROM layer_results AS v {FROM_TRIALS} {where} GROUP BY {', '.join(columns)}"
    )
    return frame(connection, query, values, " ".join([*groups, "total", "n"]))


def _expanding(query: str, *lists: str) -> sa.TextClause:
    return sa.text(query).bindparams(*(sa.bindparam(name, expanding=True) for name in lists))
