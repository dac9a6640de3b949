"""Effects against the controls that were run beside them: random heads, random directions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlux.compare.selection import groups_of
from mlux.compare.summary import check_level, equal_sizes, grouped
from mlux.compare.units import bounds, conditions, prompt_means, with_identity, with_metric
from mlux.errors import RunError
from mlux.stats import (
    N_RESAMPLES,
    Bounds,
    benjamini_hochberg,
    null_p,
    paired_interval,
    sign_flip_p,
)
from mlux.store import frames
from mlux.store.frames import Database, Runs

METHOD = (
    "rank among the controls' means; BCa bootstrap and sign-flip test of effect minus mean "
    "control, paired by prompt; Benjamini–Hochberg over the rows"
)


def controls(
    runs: Runs,
    *,
    metric: str,
    by: str | Sequence[str] = (),
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    db: Database = None,
) -> pd.DataFrame:
    """Each effect against its stored controls as the null distribution.

    A condition with a value named `control` is a control of the condition without it. All controls
    of a condition are draws of what an effect would be if nothing were special about it.

    Args:
        runs: A run, or several.
        metric: The metric.
        by: What to keep apart: any of `layer head position`.
        level: The confidence level of the interval.
        n_resamples: Of the bootstrap and the sign-flip test.
        seed: Of both.
        db: The notebook.

    Returns:
        `run experiment model condition`, `by`, `metric n estimate n_controls null_mean null_sd p
        difference low high p_paired q`, in the order of runs, conditions and groups. `estimate` is
        the effect's mean over `n` prompts, `null_mean` and `null_sd` are those of the `n_controls`
        controls' means, `p` is two-sided and no smaller than 2 / (n_controls + 1). With few
        controls look at `difference` instead: the effect minus the mean control, paired by prompt,
        with its interval and p; `q` is p_paired corrected over the rows.

    Raises:
        UnknownNameError: If there is no such run, metric or group.
        RunError: If no condition of these runs has a control.

    Source:
        Controls as a null distribution: Hewitt and Liang, "Designing and interpreting probes with
        control tasks" (2019); p: North, Curtis and Sham (2002).

    Example:
        >>> controls("latest:logit_lens", metric="answer_rank", db="mlux.db.example")
        Traceback (most recent call last):
        mlux.errors.RunError: No condition of these runs has a control for answer_rank. ...
    """
    extra = groups_of(by, among=("layer", "head", "position"))
    check_level(level)
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        units = prompt_means(connection, keys, metric, ["run", *extra, "condition_id"])
        labels = conditions(connection, units["condition_id"].unique().tolist())
        controlled = units["condition_id"].map(lambda key: labels[key][1]).astype("Int64")
        if controlled.isna().all():
            raise RunError(
                f"No condition of these runs has a control for {metric}. Run one: a condition "
                "with the value control, as in site=head, control=random."
            )
        unit = ["run", "effect_id", *extra, "prompt_id"]
        effects = units[controlled.isna()].rename(columns={"condition_id": "effect_id"})
        nulls = units[controlled.notna()].assign(effect_id=controlled.dropna().astype("int64"))
        paired = nulls.merge(effects, on=unit, suffixes=("_null", ""))
        ends = bounds(connection, keys, metric)
        table = _table(paired, ["run", "effect_id", *extra], ends, level, n_resamples, seed)
        names = [labels[key][0] for key in table.pop("effect_id")]
        measures = [name for name in table.columns if name != "run"]
        table["condition"] = pd.Categorical(names, categories=list(dict.fromkeys(names)))
        table = with_identity(connection, table[["run", "condition", *measures]])
    table.attrs = {"method": METHOD, "level": level, "n_resamples": n_resamples, "seed": seed}
    return with_metric(table, metric, before="n")


def _table(
    paired: pd.DataFrame,
    groups: list[str],
    between: Bounds | None,
    level: float,
    n_resamples: int,
    seed: int,
) -> pd.DataFrame:
    """Statistics of each group of `groups prompt_id condition_id value value_null`."""
    by_prompt = grouped(paired, [*groups, "prompt_id"])
    unit = by_prompt.agg(value=("value", "first"), value_null=("value_null", "mean")).reset_index()
    table: pd.DataFrame = (
        grouped(unit, groups).agg(n=("value", "size"), estimate=("value", "mean")).reset_index()
    )
    draws = grouped(paired, [*groups, "condition_id"])["value_null"].mean().reset_index()
    null = grouped(draws, groups)["value_null"]
    summary = null.agg(["size", "mean", "std"]).reset_index(drop=True)
    table["n_controls"] = summary["size"]
    table["null_mean"], table["null_sd"] = summary["mean"], summary["std"]
    counts = summary["size"].to_numpy()
    drawn = np.full((len(table), counts.max(initial=0)), np.nan)  # [groups, controls]
    drawn[np.repeat(np.arange(len(table)), counts), null.cumcount()] = draws["value_null"]
    table["p"] = null_p(table["estimate"].to_numpy(), drawn)
    difference = (unit["value"] - unit["value_null"]).to_numpy()
    for name in ("difference", "low", "high", "p_paired"):
        table[name] = np.full(len(table), np.nan)
    for places, rows in equal_sizes(table["n"].to_numpy()):
        data = difference[rows]
        ends = paired_interval(
            data, bounds=between, level=level, n_resamples=n_resamples, seed=seed
        )
        table.loc[places, "difference"] = data.mean(axis=1)
        table.loc[places, "low"], table.loc[places, "high"] = ends
        table.loc[places, "p_paired"] = sign_flip_p(data, n_resamples=n_resamples, seed=seed)
    table["q"] = benjamini_hochberg(table["p_paired"].to_numpy())
    return table
