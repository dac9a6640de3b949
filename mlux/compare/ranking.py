"""Where a metric is best, and whether runs agree on it."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import sqlalchemy as sa
from numpy.typing import NDArray

from mlux.compare.depth import at_depth, reference_depth
from mlux.compare.facts import run_facts
from mlux.compare.selection import groups_of
from mlux.compare.units import means, with_identity, with_metric
from mlux.errors import ParameterError
from mlux.limits import check as check_range
from mlux.stats import Floats
from mlux.store import frames
from mlux.store.frames import Database, Runs

PLACES = ("layer", "head", "position", "prompt", "condition")


def best(
    runs: Runs,
    *,
    metric: str,
    by: str | Sequence[str] = ("layer", "head"),
    top: int = 1,
    which: Literal["highest", "lowest"] | None = None,
    db: Database = None,
) -> pd.DataFrame:
    """Which layer, head, position, prompt or condition is best by a metric.

    The best of many is partly luck: an estimate that was chosen for being the largest is too large
    on average. Look at the same place on other prompts before relying on its value.

    Args:
        runs: A run, or several.
        metric: The metric.
        by: What to choose among: any of `layer head position prompt condition`.
        top: How many of the best to show for each run.
        which: What is best; by default what the metric itself says.
        db: The notebook.

    Returns:
        `run experiment model metric rank`, `by`, `n value`: in the order of runs, best first;
        `rank` counts from 1, and places of equal value keep their order. `value` is the mean over
        `n` prompts. `attrs["which"]` is `highest` or `lowest`.

    Raises:
        UnknownNameError: If there is no such run, metric or group.
        ParameterError: If neither the metric nor `which` says what is better, or top is no number.

    Example:
        >>> found = best("latest:induction_heads", metric="prefix_matching_score", top=2,
        ...              db="mlux.db.example")
        >>> found["rank"].tolist(), found.attrs["which"]
        ([1, 2], 'highest')
    """
    groups = groups_of(by, among=PLACES)
    if not groups:
        raise ParameterError(f"Choose what to choose among: {', '.join(PLACES)}.")
    _check_top(top)
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        end = which or better(connection, list(keys.values()), metric)
        if end not in ("highest", "lowest"):
            raise ParameterError(
                f"{metric} has no better end: say which='highest' or which='lowest'."
            )
        table = means(connection, keys, metric, ["run", *groups])
        worst_first = -table["value"] if end == "highest" else table["value"]
        order = worst_first.groupby(table["run"], observed=True).rank(method="first")
        table["rank"] = order.astype("int64")
        table = table[table["rank"] <= top].sort_values(["run", "rank"], ignore_index=True)
        table = with_identity(connection, table[["run", "rank", *groups, "n", "value"]])
    table.attrs = {"which": end}
    return with_metric(table, metric, before="rank")


def better(connection: sa.Connection, runs: Sequence[int], metric: str) -> str | None:
    """`highest` or `lowest`, by what the metric itself says in these runs; None if it does not."""
    query = sa.text(
        "SELECT DISTINCT k.better FROM run_metrics AS r JOIN metrics AS k ON k.id = r.metric_id "
        "WHERE r.run_id IN :runs AND k.name = :metric"
    ).bindparams(sa.bindparam("runs", expanding=True))
    found = connection.execute(query, {"runs": list(runs), "metric": metric}).scalars().all()
    return {"higher": "highest", "lower": "lowest"}.get(found[0]) if len(found) == 1 else None


def agreement(
    runs: Runs,
    *,
    metric: str,
    by: str | Sequence[str] = ("layer", "head"),
    top: int = 10,
    db: Database = None,
) -> pd.DataFrame:
    """Whether runs rank layers and heads alike.

    Args:
        runs: Two runs or more.
        metric: The metric.
        by: What is ranked: any of `layer head position prompt condition`.
        top: How many of the highest to hold against each other.
        db: The notebook.

    Returns:
        A row for each pair of runs: `run_a run_b model_a model_b metric n rho p top overlap
        by_chance`, in the order of the runs. `n` places that both have; `rho` Spearman's rank
        correlation over them, with its p of "no monotone relation" (t distribution; NaN with fewer
        than three places or if a run has the same value everywhere); `overlap` the share of the
        `top` highest that are among both runs' highest, `by_chance` what it would be at random.
        Layers of models of different depth are the same place at the same share of the depth.

    Raises:
        UnknownNameError: If there is no such run, metric or group.
        ParameterError: If fewer than two runs are given, or top is no number.

    Source:
        Spearman, "The proof and measurement of association between two things" (1904).

    Example:
        >>> runs = ["latest:induction_heads~1", "latest:induction_heads"]
        >>> found = agreement(runs, metric="prefix_matching_score", top=2, db="mlux.db.example")
        >>> bool(found.loc[0, "rho"] > 0.5)
        True
    """
    groups = groups_of(by, among=PLACES)
    _check_top(top)
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        if len(keys) < 2:
            raise ParameterError("Give two runs or more to see whether they agree.")
        table = means(connection, keys, metric, ["run", *groups])
        facts = run_facts(connection, keys)
        identity = with_identity(
            connection, pd.DataFrame({"run": pd.Categorical(list(keys), categories=list(keys))})
        )
    model = identity["model"]
    reference = reference_depth(facts, groups)
    if reference is not None:
        table = pd.concat([at_depth(table[table["run"] == f.uid], f, reference) for f in facts])
    wide = table.pivot(index=groups, columns="run", values="value").reindex(columns=list(keys))
    values: Floats = wide.to_numpy(dtype=np.float64).T  # [runs, places]
    first, second = np.triu_indices(len(keys), 1)  # every pair of runs once, in order
    uids = np.array(list(keys), dtype=object)
    models = model.astype(str).to_numpy()
    found = pd.DataFrame(
        {
            "run_a": uids[first],
            "run_b": uids[second],
            "model_a": models[first],
            "model_b": models[second],
            "metric": metric,
            **_agree(values, first, second, top),
        }
    )
    for names, order in (
        (("run_a", "run_b"), list(keys)),
        (("model_a", "model_b"), list(model.cat.categories)),
        (("metric",), [metric]),
    ):
        for name in names:
            found[name] = pd.Categorical(found[name], categories=order)
    return found


def _agree(
    values: Floats, first: NDArray[np.int64], second: NDArray[np.int64], top: int
) -> dict[str, NDArray[Any]]:
    """n, rho, p, top, overlap and its expectation, of the places that both runs of a pair have.

    Args:
        values: [runs, places]; NaN where a run lacks a place.
        first: The number of each pair's first run, [pairs].
        second: That of its second run, [pairs].
        top: How many of the highest are held against each other.
    """
    from scipy.special import stdtr

    names = ("n", "rho", "top", "overlap")
    found: dict[str, NDArray[Any]] = {name: np.full(len(first), np.nan) for name in names}
    # Pairs that have the same places are done together: models of one shape all are.
    shapes, shape = np.unique(~np.isnan(values), axis=0, return_inverse=True)
    kinds, kind = np.unique(shape[[first, second]], axis=1, return_inverse=True)
    for number, (i, j) in enumerate(kinds.T):
        places = shapes[i] & shapes[j]
        chosen = np.flatnonzero(kind == number)
        n = int(places.sum())
        runs, row = np.unique([first[chosen], second[chosen]], return_inverse=True)
        row_a, row_b = row.reshape(2, -1)
        shared = values[np.ix_(runs, places)]
        found["n"][chosen], found["top"][chosen] = n, min(top, n)
        if not n:
            continue
        ranks = pd.DataFrame(shared).rank(axis=1).to_numpy()
        centred = ranks - ranks.mean(axis=1, keepdims=True)
        size = np.sqrt((centred**2).sum(axis=1))
        size = np.where(size > 0, size, np.nan)  # the same value everywhere has no ranks
        unit = centred / size[:, None]
        if n > 2:
            found["rho"][chosen] = np.clip((unit @ unit.T)[row_a, row_b], -1.0, 1.0)
        # Ties at the edge go to the first place, in every run alike.
        highest = np.zeros(shared.shape)
        order = np.argsort(-shared, axis=1, kind="stable")[:, :top]
        np.put_along_axis(highest, order, 1.0, axis=1)
        found["overlap"][chosen] = (highest @ highest.T)[row_a, row_b] / min(top, n)
    rho, n_places = found["rho"], found["n"]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(rho) * np.sqrt((n_places - 2) / (1 - rho**2))
        p = 2 * stdtr(n_places - 2, -t)
        by_chance = found["top"] / n_places
    counts = {name: found[name].astype(np.int64) for name in ("n", "top")}
    return {
        "n": counts["n"],
        "rho": rho,
        "p": np.where(np.isnan(rho), np.nan, p),
        "top": counts["top"],
        "overlap": found["overlap"],
        "by_chance": by_chance,
    }


def _check_top(top: int) -> None:
    check_range("top", top)
