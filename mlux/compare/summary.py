"""Many groups of units summarised at once: how many, their mean, and its interval."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlux.errors import ParameterError
from mlux.limits import check as check_range
from mlux.stats import Bounds, Floats, mean_interval

if TYPE_CHECKING:
    from pandas.api.typing import DataFrameGroupBy


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How data are drawn anew.

    Attributes:
        level: The confidence level of intervals.
        n_resamples: How often.
        seed: Equal seeds give equal results.
    """

    level: float
    n_resamples: int
    seed: int

    def __post_init__(self) -> None:
        """Raises ParameterError unless level and number can be."""
        for option in ("level", "n_resamples", "seed"):
            check_range(option, getattr(self, option))
        if not self.n_resamples >= 1:
            raise ParameterError(f"n_resamples is {self.n_resamples!r}; give 1 or more.")


INTERVAL = "BCa bootstrap of the mean over prompts"


def summarised(
    units: pd.DataFrame,
    groups: Sequence[str],
    *,
    bounds: Bounds | None,
    level: float | None,
    n_resamples: int,
    seed: int,
) -> pd.DataFrame:
    """The mean over the units of each group.

    Args:
        units: `groups` and `value`, one row a unit.
        groups: What to summarise separately.
        bounds: Between which ends the values lie, if there are any.
        level: The confidence level; None for no interval, which costs most of the time.
        n_resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        `groups`, `n`, `estimate`, and `low` and `high` if there is a level; in the order of the
        groups.
    """
    check_level(level)
    codes = grouped(units, groups).ngroup().to_numpy()
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes) if len(codes) else np.zeros(0, np.int64)
    starts = np.cumsum(counts) - counts
    table: pd.DataFrame = units[list(groups)].iloc[order[starts]].reset_index(drop=True)
    table["n"] = counts
    values = units["value"].to_numpy()[order]
    for name in ("estimate", "low", "high") if level is not None else ("estimate",):
        table[name] = np.full(len(table), np.nan)
    for places, rows in equal_sizes(counts):
        data: Floats = values[rows]  # [groups, n]
        table.loc[places, "estimate"] = data.mean(axis=1)
        if level is not None:
            ends = mean_interval(
                data, bounds=bounds, level=level, n_resamples=n_resamples, seed=seed
            )
            table.loc[places, "low"], table.loc[places, "high"] = ends
    table.attrs = {}
    if level is not None:
        table.attrs = {
            "method": f"{INTERVAL}, {n_resamples:,} resamples",
            "level": level,
            "n_resamples": n_resamples,
            "seed": seed,
        }
    return table


def grouped(frame: pd.DataFrame, groups: Sequence[str]) -> "DataFrameGroupBy[Any, Literal[True]]":
    """The frame by its groups: NA is one of them, names that do not occur are none."""
    return frame.groupby(list(groups), observed=True, dropna=False, sort=True)


def equal_sizes(
    counts: NDArray[np.int64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Groups of equal size, to be computed together.

    Args:
        counts: The size of each group; their units lie one group behind the other.

    Yields:
        The places of the groups, [groups], and the rows of their units, [groups, n].
    """
    starts = np.cumsum(counts) - counts
    for size in np.unique(counts[counts > 0]):
        places = np.flatnonzero(counts == size)
        yield places, starts[places][:, None] + np.arange(size)


def group_codes(units: pd.DataFrame, groups: list[str]) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """The number of each row's group, and the names of each group, in order."""
    if not groups:
        return np.zeros(len(units), np.int64), pd.DataFrame(index=range(1))
    codes = np.asarray(grouped(units, groups).ngroup(), dtype=np.int64)
    _, firsts = np.unique(codes, return_index=True)
    return codes, units[groups].iloc[firsts].reset_index(drop=True)


def check_level(level: float | None) -> None:
    """Raises ParameterError unless the level is one of an interval."""
    check_range("level", level)
