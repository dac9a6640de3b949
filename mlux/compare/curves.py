"""A metric along an axis, with its interval: by layer, and by dose."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import sqlalchemy as sa

from mlux.compare.selection import groups_of
from mlux.compare.summary import summarised
from mlux.compare.units import bounds, prompt_means, with_identity, with_metric
from mlux.errors import UnknownNameError
from mlux.stats import N_RESAMPLES
from mlux.store import frames
from mlux.store.frames import Database, Runs


def profile(
    runs: Runs,
    *,
    metric: str,
    by: str | Sequence[str] = (),
    per: Literal["run", "model"] = "run",
    level: float | None = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    db: Database = None,
) -> pd.DataFrame:
    """A metric by layer, for many runs or models.

    Args:
        runs: A run, or several.
        metric: The metric.
        by: What else to keep apart: any of `head position prompt condition`.
        per: One curve a run, or one a model, over all its runs.
        level: The confidence level of the interval; None for none.
        n_resamples: Of the bootstrap.
        seed: Of the bootstrap.
        db: The notebook.

    Returns:
        `run experiment model` (only `model` if per model), `by`, `metric layer depth n estimate
        low high`, in the order of runs, groups and layers. `depth` is the layer as a share of the
        model's depth, from 0 to 1, for models of different depth; `n` counts prompts; `estimate`
        is the mean over prompts, in the metric's unit. `attrs` has method, level and seed.

    Raises:
        UnknownNameError: If there is no such run, metric or group.

    Example:
        >>> curve = profile("latest:logit_lens", metric="answer_rank", db="mlux.db.example")
        >>> list(curve.columns[3:])
        ['metric', 'layer', 'depth', 'n', 'estimate', 'low', 'high']
    """
    extra = groups_of(by, among=("head", "position", "prompt", "condition"))
    groups_of(per, among=("run", "model"))
    groups = [per, *extra, "layer"]
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        units = prompt_means(connection, keys, metric, groups)
        ends = bounds(connection, keys, metric)
        table = summarised(
            units, groups, bounds=ends, level=level, n_resamples=n_resamples, seed=seed
        )
        n_layers = _n_layers(connection, per, keys)
        if per == "run":
            table = with_identity(connection, table)
    last = table[per].astype(str).map(n_layers).to_numpy() - 1
    layer = table["layer"].to_numpy(dtype=np.float64, na_value=np.nan)
    names = list(table.columns)
    place = names.index("layer") + 1
    attrs = table.attrs
    table = table.assign(depth=layer / np.maximum(last, 1))
    table = table[[*names[:place], "depth", *names[place:]]]
    table.attrs = attrs
    return with_metric(table, metric, before="layer")


def dose_response(
    runs: Runs,
    *,
    metric: str,
    dose: str = "alpha",
    by: str | Sequence[str] = (),
    controls: bool = False,
    level: float | None = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    db: Database = None,
) -> pd.DataFrame:
    """A metric against a number that was varied, such as the strength of steering.

    Args:
        runs: A run, or several.
        metric: The metric.
        dose: The name of a value of the conditions, or else of a param of the runs. Where its
            values are no numbers, they are left out.
        by: What to keep apart: any of `layer head position prompt`.
        controls: Whether to add the controls, told apart by the column `control`.
        level: The confidence level of the interval; None for none.
        n_resamples: Of the bootstrap.
        seed: Of the bootstrap.
        db: The notebook.

    Returns:
        `run experiment model`, `control` if asked for (NA for the effect itself), `by`, `metric
        dose n estimate low high`, in the order of runs, controls, groups and doses. `attrs` has the
        dose's name, method, level and seed.

    Raises:
        UnknownNameError: If there is no such run, metric or group, or nothing varies by that name.

    Example:
        >>> dose_response("latest:logit_lens", metric="answer_rank", dose="top_k",
        ...               db="mlux.db.example")["dose"].tolist()
        [5.0]
    """
    extra = groups_of(by, among=("layer", "head", "position", "prompt"))
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        units = prompt_means(connection, keys, metric, ["run", *extra, "condition_id"])
        names = _condition_values(connection, units["condition_id"].unique().tolist())
        units["dose"] = _doses(connection, keys, units, names, dose)
        control = units["condition_id"].map({i: v.get("control") for i, v in names.items()})
        units["control"] = pd.Categorical(control)
        units = units[units["dose"].notna()]
        if not controls:
            units = units[units["control"].isna()]
        groups = ["run", *(["control"] if controls else []), *extra, "dose"]
        unit = [*groups, "prompt_id"]
        units = units.groupby(unit, observed=True, dropna=False)["value"].mean().reset_index()
        ends = bounds(connection, keys, metric)
        table = summarised(
            units, groups, bounds=ends, level=level, n_resamples=n_resamples, seed=seed
        )
        table = with_identity(connection, table)
    if controls:  # the effect itself before its controls
        order = ["run", "control"]
        table = table.sort_values(order, kind="stable", na_position="first", ignore_index=True)
    table.attrs["dose"] = dose
    return with_metric(table, metric, before="dose")


def _n_layers(connection: sa.Connection, per: str, keys: Mapping[str, int]) -> dict[str, int]:
    """How many layers the model of each run, or each model, has."""
    name = "r.uid" if per == "run" else "m.label"
    query = sa.text(
        f"SELECT {name}, m.n_layers FROM runs AS r JOIN models AS m ON m.id = r.model_id "
        "WHERE r.id IN :runs"
    ).bindparams(sa.bindparam("runs", expanding=True))
    return dict(connection.execute(query, {"runs": list(keys.values())}).all())


def _condition_values(connection: sa.Connection, ids: list[int]) -> dict[int, dict[str, str]]:
    """Condition's key → its names and values."""
    query = sa.text(
        "SELECT condition_id, name, value FROM condition_values WHERE condition_id IN :ids"
    ).bindparams(sa.bindparam("ids", expanding=True))
    found: dict[int, dict[str, str]] = {key: {} for key in ids}
    for key, name, value in connection.execute(query, {"ids": ids}):
        found[key][name] = value
    return found


def _doses(
    connection: sa.Connection,
    keys: Mapping[str, int],
    units: pd.DataFrame,
    names: Mapping[int, Mapping[str, str]],
    dose: str,
) -> pd.Series:
    """The dose of each unit; NaN where it is no number."""
    known = {name for values in names.values() for name in values}
    if dose in known:
        numbers = {key: _number(values.get(dose)) for key, values in names.items()}
        return units["condition_id"].map(numbers).astype("float64")
    query = sa.text(
        "SELECT r.uid, p.name, p.number FROM run_params AS p JOIN runs AS r ON r.id = p.run_id "
        "WHERE r.id IN :runs"
    ).bindparams(sa.bindparam("runs", expanding=True))
    rows = connection.execute(query, {"runs": list(keys.values())}).all()
    params = {uid: number for uid, name, number in rows if name == dose}
    if not params:
        known |= {name for _, name, number in rows if number is not None}
        raise UnknownNameError("condition value or param of these runs", dose, known)
    return units["run"].astype(str).map(params).astype("float64")


def _number(text: str | None) -> float:
    try:
        return float(text) if text is not None else math.nan
    except ValueError:
        return math.nan
