"""What can be paired: the numbers of two runs for the same prompt under the same condition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import sqlalchemy as sa
from pandas.api.types import union_categoricals

from mlux.compare.checks import check_metric, check_quantization, check_replicates, notes
from mlux.compare.depth import at_depth, depth_notes, reference_depth
from mlux.compare.facts import RunFacts, run_facts
from mlux.compare.selection import GROUPS, groups_of
from mlux.compare.units import bounds, conditions, prompt_means, replicate_means
from mlux.errors import RunError
from mlux.stats import Bounds
from mlux.store import frames
from mlux.store.frames import Database, Runs
from mlux.store.liveness import mark_crashed

Unit = Literal["prompt", "seed"]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Two sides of a comparison, checked, with the numbers of each.

    Attributes:
        runs: The runs of a and of b; several are replicates.
        groups: What is compared separately, without `model` and `experiment`.
        cells: For a and b: `run` if replicates are kept apart, `groups`, `condition_id`,
            `prompt_id` and `value`.
        notes: What to keep in mind.
        bounds: Between which ends the metric's values lie, if there are any.
    """

    runs: tuple[list[RunFacts], list[RunFacts]]
    groups: list[str]
    cells: tuple[pd.DataFrame, pd.DataFrame]
    notes: list[str]
    bounds: Bounds | None

    def label(self, name: str) -> str:
        """The models, or the experiments, of both sides, as in `small → large`."""
        of = [run.model if name == "model" else run.experiment for run, *_ in self.runs]
        return " → ".join(dict.fromkeys(of))

    def called(self, side: int) -> str:
        """The uids of a side."""
        return ", ".join(run.uid for run in self.runs[side])


def load(
    a: Runs,
    b: Runs,
    *,
    metric: str,
    by: str | Sequence[str],
    across: bool,
    db: Database,
    replicates: bool = False,
) -> Sides:
    """Both sides, after everything that would make their comparison invalid was refused.

    Args:
        a: A run, or several that differ in their seed alone.
        b: The same of the other side.
        metric: The metric.
        by: What to compare separately.
        across: Whether models of different precision may be compared.
        db: The notebook.
        replicates: Whether the runs of a side are kept apart, or averaged.

    Raises:
        UnknownNameError: If there is no such run, metric or group.
        RunError: If they cannot be compared.
    """
    groups = [name for name in groups_of(by) if name not in ("model", "experiment")]
    with frames.opened(db) as store:
        crashed = mark_crashed(store)
        with store.reading() as connection:
            keys = [frames.run_keys(store, connection, side) for side in (a, b)]
            runs = [run_facts(connection, side, crashed) for side in keys]
            changed = check_metric(connection, keys[0] | keys[1], metric)
            for side in runs:
                check_replicates(side)
            check_quantization(runs, across)
            ends = bounds(connection, keys[0] | keys[1], metric)
            names = [*(["run"] if replicates else []), *groups, "condition_id"]
            everybody = [run for side in runs for run in side]
            reference = reference_depth(everybody, groups)
            cells = [
                at_depth(_cells(connection, side, metric, names), of[0], reference)
                for side, of in zip(keys, runs, strict=True)
            ]
    _unify(cells, groups)
    return Sides(
        runs=(runs[0], runs[1]),
        groups=groups,
        cells=(cells[0], cells[1]),
        bounds=ends,
        notes=[*notes(runs[0], runs[1]), *changed, *depth_notes(everybody, reference)],
    )


def _cells(
    connection: sa.Connection, keys: Mapping[str, int], metric: str, groups: Sequence[str]
) -> pd.DataFrame:
    """`groups prompt_id value`; controls only if conditions are kept apart."""
    of = prompt_means if "run" in groups or len(keys) == 1 else replicate_means
    cells = of(connection, keys, metric, groups)
    if "condition" in groups:
        return cells
    known = conditions(connection, cells["condition_id"].unique().tolist())
    controls = [key for key, (_, controlled) in known.items() if controlled is not None]
    return cells[~cells["condition_id"].isin(controls)]


def _unify(cells: list[pd.DataFrame], groups: Sequence[str]) -> None:
    """Gives names the same categories on both sides, so that they stay names when merged."""
    for name in groups:
        if isinstance(cells[0][name].dtype, pd.CategoricalDtype):
            known = union_categoricals([side[name] for side in cells]).categories
            for place, side in enumerate(cells):
                named = side[name].cat.set_categories(known)
                cells[place] = side.assign(**{name: named})


def paired(sides: Sides, unit: Unit) -> pd.DataFrame:
    """The units of both sides, one a row, with a column `a` and a column `b`.

    Args:
        sides: What to pair.
        unit: `prompt`: replicates are averaged, and so are the conditions that both sides have.
            `seed`: a replicate is a unit, over what all replicates of both sides have.

    Returns:
        `groups`, `unit`, `a`, `b`; both NaN for a unit that only one side has.
    """
    if unit == "seed":
        return _by_seed(sides)
    cell = [*sides.groups, "prompt_id", "condition_id"]
    means = [_mean(side, cell, name) for side, name in zip(sides.cells, "ab", strict=True)]
    both = means[0].merge(means[1], on=cell, how="outer")
    units = [*sides.groups, "prompt_id"]
    found = both.dropna(subset=["a", "b"])
    averaged = found.groupby(units, observed=True, dropna=False)[["a", "b"]].mean()
    everything = both[units].drop_duplicates().set_index(units)
    return everything.join(averaged).reset_index().rename(columns={"prompt_id": "unit"})


def _by_seed(sides: Sides) -> pd.DataFrame:
    cell = [*sides.groups, "prompt_id", "condition_id"]
    named = zip(sides.cells, "ab", strict=True)
    cells = pd.concat([side.assign(side=name) for side, name in named])
    n_runs = len(sides.runs[0]) + len(sides.runs[1])
    everywhere = cells.groupby(cell, observed=True, dropna=False)["value"].transform("size")
    cells = cells[everywhere == n_runs]
    seeds = {run.uid: run.seed for side in sides.runs for run in side}
    cells = cells.assign(unit=cells["run"].astype(str).map(seeds))
    unit = [*sides.groups, "unit"]
    means = [_mean(cells[cells["side"] == name], unit, name) for name in "ab"]
    both = means[0].merge(means[1], on=unit, how="outer")
    lost = both[["a", "b"]].isna().any(axis=1)
    both.loc[lost, ["a", "b"]] = float("nan")
    return both


def _mean(cells: pd.DataFrame, groups: list[str], name: str) -> pd.DataFrame:
    means = cells.groupby(groups, observed=True, dropna=False)["value"].mean()
    return means.rename(name).reset_index()


def pairs(
    a: Runs,
    b: Runs,
    *,
    metric: str,
    by: str | Sequence[str] = (),
    across_quantization: bool = False,
    db: Database = None,
) -> pd.DataFrame:
    """The pairs that `diff` takes differences of, one prompt a row.

    Args:
        a: A run, the baseline; or several that differ in their seed alone.
        b: A run, or several.
        metric: The metric.
        by: What to keep apart: any of `layer head position condition`.
        across_quantization: Whether models of different precision may be compared.
        db: The notebook.

    Returns:
        `by`, `prompt`, `a`, `b`, `difference` (b minus a), for each prompt that both have.
        `attrs["n_lost"]` counts the rows of prompts that only one of them has.

    Raises:
        UnknownNameError: If there is no such run, metric or group.
        RunError: If nothing can be paired, or the comparison would be invalid.

    Example:
        >>> both = ["latest:logit_lens~1", "latest:logit_lens"]
        >>> found = pairs(*both, metric="answer_rank", across_quantization=True,
        ...               db="mlux.db.example")
        >>> list(found.columns), found.attrs["n_lost"]
        (['prompt', 'a', 'b', 'difference'], 0)
    """
    groups = groups_of(by, among=[name for name in GROUPS if name not in ("model", "experiment")])
    sides = load(a, b, metric=metric, by=groups, across=across_quantization, db=db)
    units = paired(sides, "prompt")
    found = units.dropna(subset=["a", "b"]).reset_index(drop=True)
    refuse_empty(sides, found, metric)
    texts = _texts(found["unit"].unique().tolist(), db)
    found["prompt"] = pd.Categorical(found.pop("unit").map(texts))
    found["difference"] = found["b"] - found["a"]
    table = found[[*(n for n in sides.groups if n != "prompt"), "prompt", "a", "b", "difference"]]
    table.attrs = {"n_lost": len(units) - len(found), "notes": sides.notes}
    return table


def _texts(ids: list[int], db: Database) -> dict[int, str]:
    query = sa.text("SELECT id, text FROM prompts WHERE id IN :ids").bindparams(
        sa.bindparam("ids", expanding=True)
    )
    found: dict[int, str] = {}
    with frames.opened(db) as store, store.reading() as connection:
        for start in range(0, len(ids), 30_000):
            rows = connection.execute(query, {"ids": ids[start : start + 30_000]})
            found |= dict(rows.all())
    return found


def refuse_empty(sides: Sides, found: pd.DataFrame, metric: str) -> None:
    """Raises RunError if nothing could be paired."""
    if len(found):
        return
    (first, *_), (second, *_) = sides.runs
    raise RunError(
        f"Runs {sides.called(0)} ({first.prompts}) and {sides.called(1)} "
        f"({second.prompts}) have no {metric} of the same prompt under the same condition, so "
        "nothing can be paired. Compare them unpaired: mlux compare --unpaired, or "
        "compare.diff(…, paired=False); or see their means: mlux compare --side-by-side, or "
        "compare.pivot."
    )
