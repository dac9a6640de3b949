"""Two runs on different prompts: nothing is paired, so only their means can be compared."""

import numpy as np
import pandas as pd

from mlux.compare.pairing import Sides
from mlux.compare.summary import Resampling, group_codes
from mlux.errors import RunError
from mlux.stats import Floats, cohens_d, difference_interval, permutation_p

METHOD = "unpaired: BCa bootstrap of the difference of means, permutation test, Cohen's d"


def unpaired_table(sides: Sides, metric: str, how: Resampling) -> tuple[pd.DataFrame, str]:
    """Statistics of each group's two samples of prompts, and what they are.

    Raises:
        RunError: If the runs have no condition in common.
    """
    shared = np.intersect1d(sides.cells[0]["condition_id"], sides.cells[1]["condition_id"])
    if not len(shared):
        raise RunError(
            f"Runs {sides.called(0)} and {sides.called(1)} have no {metric} under the same "
            "condition. See their means: mlux compare --side-by-side, or compare.pivot."
        )
    units = pd.concat(
        [
            _units(cells[cells["condition_id"].isin(shared)], sides.groups).assign(is_b=is_b)
            for is_b, cells in enumerate(sides.cells)
        ],
        ignore_index=True,
    )
    codes, table = group_codes(units, sides.groups)
    sizes = np.zeros((len(table), 2), np.int64)
    np.add.at(sizes, (codes, units["is_b"].to_numpy()), 1)
    table["n"], table["n_b"] = sizes.T
    order = np.lexsort((units["is_b"], codes))  # each group's a before its b
    values: Floats = units["value"].to_numpy()[order]
    starts = np.cumsum(sizes.sum(axis=1)) - sizes.sum(axis=1)
    names = ("mean_a", "mean_b", "estimate", "low", "high", "effect", "p")
    found = {name: np.full(len(table), np.nan) for name in names}
    for n_a, n_b in np.unique(sizes[(sizes > 0).all(axis=1)], axis=0):
        places = np.flatnonzero((sizes == (n_a, n_b)).all(axis=1))
        rows = values[starts[places][:, None] + np.arange(n_a + n_b)]
        a, b = rows[:, :n_a], rows[:, n_a:]
        found["mean_a"][places], found["mean_b"][places] = a.mean(axis=1), b.mean(axis=1)
        found["estimate"][places] = b.mean(axis=1) - a.mean(axis=1)
        ends = difference_interval(
            a, b, bounds=sides.bounds, level=how.level, n_resamples=how.n_resamples, seed=how.seed
        )
        found["low"][places], found["high"][places] = ends
        found["effect"][places] = cohens_d(a, b)
        found["p"][places] = permutation_p(a, b, n_resamples=how.n_resamples, seed=how.seed)
    for name in names:
        table[name] = found[name]
    return table, METHOD


def _units(cells: pd.DataFrame, groups: list[str]) -> pd.DataFrame:
    """The mean of each prompt: over runs first, then over conditions."""
    means = cells
    for unit in ([*groups, "prompt_id", "condition_id"], [*groups, "prompt_id"]):
        means = means.groupby(unit, observed=True, dropna=False)["value"].mean().reset_index()
    return means
