"""Two samples compared: one record with the estimate, its interval, its test and its size."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from mlux.errors import ParameterError
from mlux.stats.arrays import N_RESAMPLES, Floats
from mlux.stats.bootstrap import difference_interval, mean_interval
from mlux.stats.effects import cliffs_delta, cohens_d, cohens_dz
from mlux.stats.permutation import permutation_p, sign_flip_p

PAIRED = "BCa bootstrap of the mean difference, paired sign-flip test, Cohen's d_z"
UNPAIRED = "BCa bootstrap of the difference of means, permutation test, Cohen's d"


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """How b differs from a.

    Attributes:
        estimate: Mean of b minus mean of a, in the metric's unit.
        low: Lower end of its interval.
        high: Upper end of its interval.
        level: The interval's confidence level.
        p: Two-sided, of "no difference".
        effect: Cohen's d_z if paired, else Cohen's d.
        cliffs_delta: From -1 to 1: how much more often b is larger than a.
        n: Pairs, or units of a if unpaired.
        n_b: Units of b; the same as n if paired.
        n_lost: Units that only one sample has, and that a paired comparison leaves out.
        method: What was computed.
        n_resamples: How often data were drawn anew.
        seed: Of the drawing.
    """

    estimate: float
    low: float
    high: float
    level: float
    p: float
    effect: float
    cliffs_delta: float
    n: int
    n_b: int
    n_lost: int
    method: str
    n_resamples: int
    seed: int


def paired(
    a: Mapping[Hashable, float],
    b: Mapping[Hashable, float],
    *,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """How b differs from a, unit by unit.

    Args:
        a: Unit (a prompt) → its number. A mapping, or a pandas Series without repeated labels.
        b: The same of the other sample.
        level: The confidence level.
        n_resamples: How often data are drawn anew.
        seed: Equal seeds give equal results.

    Raises:
        ParameterError: If no unit is in both, or a unit occurs twice.

    Example:
        >>> found = paired({"x": 1.0, "y": 2.0, "z": 3.0}, {"x": 2.0, "y": 3.5, "w": 9.0})
        >>> found.estimate, found.n, found.n_lost
        (1.25, 2, 2)
    """
    first, second = _units(a, "a"), _units(b, "b")
    both = [unit for unit in first if unit in second]
    if not both:
        raise ParameterError(
            f"The {len(first)} units of a and the {len(second)} of b have none in common, so "
            "nothing can be paired. Compare them unpaired: stats.unpaired."
        )
    x = np.array([[first[unit] for unit in both]])
    y = np.array([[second[unit] for unit in both]])
    low, high = mean_interval(y - x, level=level, n_resamples=n_resamples, seed=seed)
    return Estimate(
        estimate=float((y - x).mean()),
        low=float(low[0]),
        high=float(high[0]),
        level=level,
        p=float(sign_flip_p(y - x, n_resamples=n_resamples, seed=seed)[0]),
        effect=float(cohens_dz(y - x)[0]),
        cliffs_delta=float(cliffs_delta(x, y)[0]),
        n=len(both),
        n_b=len(both),
        n_lost=len(first.keys() ^ second.keys()),
        method=PAIRED,
        n_resamples=n_resamples,
        seed=seed,
    )


def unpaired(
    a: Floats,
    b: Floats,
    *,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """How b differs from a where nothing pairs their units.

    Args:
        a: The numbers of one sample, [n_a].
        b: The numbers of the other, [n_b].
        level: The confidence level.
        n_resamples: How often data are drawn anew.
        seed: Equal seeds give equal results.

    Raises:
        ParameterError: If a sample is empty.

    Example:
        >>> unpaired([1.0, 2.0, 3.0], [7.0, 8.0, 9.0]).p
        0.1
    """
    x, y = np.asarray(a, np.float64)[None], np.asarray(b, np.float64)[None]
    if not (x.size and y.size):
        raise ParameterError(f"a has {x.size} units and b has {y.size}; both need at least one.")
    low, high = difference_interval(x, y, level=level, n_resamples=n_resamples, seed=seed)
    return Estimate(
        estimate=float(y.mean() - x.mean()),
        low=float(low[0]),
        high=float(high[0]),
        level=level,
        p=float(permutation_p(x, y, n_resamples=n_resamples, seed=seed)[0]),
        effect=float(cohens_d(x, y)[0]),
        cliffs_delta=float(cliffs_delta(x, y)[0]),
        n=x.size,
        n_b=y.size,
        n_lost=0,
        method=UNPAIRED,
        n_resamples=n_resamples,
        seed=seed,
    )


def _units(sample: Mapping[Hashable, float], name: str) -> dict[Hashable, float]:
    found: dict[Hashable, float] = dict(sample.items())
    if len(found) < len(sample):
        raise ParameterError(
            f"{len(sample) - len(found)} units of {name} occur twice; give each unit its mean."
        )
    return found
