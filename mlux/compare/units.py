"""The mean of each prompt, added up by the database: what every comparison is made of.

A prompt is the unit: its numbers are averaged first, over positions, conditions or whatever else is
not asked for, so that a long prompt counts as much as a short one. Trials of controls are left out
unless results are grouped by condition.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import sqlalchemy as sa

from mlux.results import BOUNDS
from mlux.store import frames

# The trials come first: they are few, and each leads to one range of the clustered results.
_FROM = """
FROM runs AS r
JOIN trials AS t ON t.run_id = r.id
JOIN conditions AS c ON c.id = t.condition_id
CROSS JOIN layer_results AS v
WHERE v.run_id = t.run_id AND v.trial = t.trial AND r.id IN :runs
"""


def prompt_means(
    connection: sa.Connection, keys: Mapping[str, int], metric: str, groups: Sequence[str]
) -> pd.DataFrame:
    """The mean of each prompt in each group.

    Args:
        connection: An open connection.
        keys: Uid → key of the runs.
        metric: The metric.
        groups: Names of `frames.KEYS`; `condition_id` stays an id.

    Returns:
        `groups`, `prompt_id` and `value`; runs in the order of `keys`.
    """
    query, values = _query(connection, keys, metric, [*groups, "prompt_id"])
    names = " ".join([*groups, "prompt_id", "value"])
    return in_order(frames.frame(connection, query, values, names), keys)


def replicate_means(
    connection: sa.Connection, keys: Mapping[str, int], metric: str, groups: Sequence[str]
) -> pd.DataFrame:
    """As `prompt_means`, of several runs that are replicates: the mean over runs of each prompt."""
    inner, values = _query(connection, keys, metric, ["run", *groups, "prompt_id"])
    columns = ", ".join([*groups, "prompt_id"])
    query = f"SELECT {columns}, avg(value) FROM ({inner}) AS u GROUP BY {columns}"
    return frames.frame(connection, query, values, " ".join([*groups, "prompt_id", "value"]))


def means(
    connection: sa.Connection, keys: Mapping[str, int], metric: str, groups: Sequence[str]
) -> pd.DataFrame:
    """The mean over prompts in each group.

    Args:
        connection: An open connection.
        keys: Uid → key of the runs.
        metric: The metric.
        groups: Names of `frames.KEYS`.

    Returns:
        `groups`, `n` prompts and `value`, in the order of the groups.
    """
    inner, values = _query(connection, keys, metric, [*groups, "prompt_id"])
    columns = ", ".join(groups)
    query = f"SELECT {columns}, count(*), avg(value) FROM ({inner}) AS u GROUP BY {columns}"
    frame = frames.frame(connection, query, values, " ".join([*groups, "n", "value"]))
    return in_order(frame, keys).sort_values(list(groups), ignore_index=True)


def _query(
    connection: sa.Connection, keys: Mapping[str, int], metric: str, groups: Sequence[str]
) -> tuple[str, dict[str, object]]:
    where, values = frames.of_metric(connection, list(keys.values()), metric)
    if not {"condition", "condition_id"} & set(groups):
        where += " AND c.controls_id IS NULL"
    columns = [frames.KEYS[name.removesuffix("_id")] for name in groups]
    named = ", ".join(f"{column} AS {name}" for column, name in zip(columns, groups, strict=True))
    query = f"SELECT {named}, avg(v.value) AS value {_FROM} {where} GROUP BY {', '.join(columns)}"
    return query, values


def bounds(
    connection: sa.Connection, keys: Mapping[str, int], metric: str
) -> tuple[float, float] | None:
    """Between which ends the values of a metric lie; None if its unit has none."""
    query = sa.text(
        "SELECT DISTINCT k.unit FROM run_metrics AS m JOIN metrics AS k ON k.id = m.metric_id "
        "WHERE m.run_id IN :runs AND k.name = :metric"
    ).bindparams(sa.bindparam("runs", expanding=True))
    values = {"runs": list(keys.values()), "metric": metric}
    found = {BOUNDS.get(unit) for (unit,) in connection.execute(query, values)}
    return found.pop() if len(found) == 1 else None


def conditions(connection: sa.Connection, ids: list[int]) -> dict[int, tuple[str, int | None]]:
    """Condition's key → its label and the key of what it controls."""
    query = sa.text("SELECT id, label, controls_id FROM conditions WHERE id IN :ids").bindparams(
        sa.bindparam("ids", expanding=True)
    )
    return {key: (label, of) for key, label, of in connection.execute(query, {"ids": ids})}


def in_order(frame: pd.DataFrame, keys: Iterable[str]) -> pd.DataFrame:
    """The frame with its runs as categories in the order in which they were asked for."""
    if "run" in frame:
        frame["run"] = frame["run"].cat.set_categories(list(keys))
    return frame


def with_identity(connection: sa.Connection, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with `experiment` and `model` behind `run`."""
    query = sa.text(
        "SELECT r.uid, e.name, m.label FROM runs AS r JOIN experiments AS e "
        "ON e.id = r.experiment_id JOIN models AS m ON m.id = r.model_id WHERE r.uid IN :uids"
    ).bindparams(sa.bindparam("uids", expanding=True))
    uids = list(frame["run"].cat.categories)
    rows = connection.execute(query, {"uids": uids}).all()
    known = {uid: (experiment, model) for uid, experiment, model in rows}
    others = [name for name in frame.columns if name != "run"]
    named = frame.copy(deep=False)
    for place, name in enumerate(("experiment", "model")):
        labels = [known[uid][place] for uid in uids]
        categories = list(dict.fromkeys(labels))
        codes = pd.Index(categories).get_indexer(pd.Index(labels))[frame["run"].cat.codes]
        named[name] = pd.Categorical.from_codes(codes, categories=pd.Index(categories))
    return named[["run", "experiment", "model", *others]]


def with_metric(frame: pd.DataFrame, metric: str, *, before: str) -> pd.DataFrame:
    """The frame with the metric's name in a column before another one; its attrs stay."""
    named = frame.copy(deep=False)
    named["metric"] = pd.Categorical([metric] * len(frame))
    names = [name for name in frame.columns if name != "metric"]
    place = names.index(before)
    found = named[[*names[:place], "metric", *names[place:]]]
    found.attrs = dict(frame.attrs)
    return found
