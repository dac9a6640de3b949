"""Having looked many times: the false discovery rate, and the family-wise error rate."""

import numpy as np

from mlux.stats.arrays import N_RESAMPLES, Floats
from mlux.stats.permutation import sign_flips

_ROUNDING = 1e-12


def benjamini_hochberg(p: Floats) -> Floats:
    """The false discovery rate at which each test would be called a discovery.

    Args:
        p: p-values, [tests]; NaN for a test that could not be made.

    Returns:
        Adjusted p-values (q), [tests]; NaN stays NaN and does not count as a test.

    Source:
        Benjamini and Hochberg, "Controlling the false discovery rate" (1995).

    Example:
        >>> benjamini_hochberg(np.array([0.01, 0.04, 0.5])).round(3).tolist()
        [0.03, 0.06, 0.5]
    """
    q = np.full(len(p), np.nan)
    made = ~np.isnan(p)
    # As scipy.stats.false_discovery_control, whose import takes half a second.
    n = made.sum()
    order = np.argsort(p[made])
    scaled = p[made][order] * n / np.arange(1, n + 1)
    falling = np.minimum.accumulate(scaled[::-1])[::-1]
    corrected = np.empty(n)
    corrected[order] = np.minimum(falling, 1.0)
    q[made] = corrected
    return q


def max_t(data: Floats, *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Floats:
    """p-values that hold for the whole family of groups at once, by step-down max-T.

    A flip turns the sign of a unit in every group together, so whatever the groups have in common
    (heads of one layer often do) is kept, and the correction is no stricter than it has to be.

    Args:
        data: The paired differences, [groups, units]; NaN where a group lacks a unit. A column is
            one unit (one prompt) in every row.
        n_resamples: How many sign flips are drawn where there are too many to try all.
        seed: Equal seeds give equal p.

    Returns:
        Adjusted p-values, [groups], float64: calling everything at most alpha a discovery makes a
        single false one with probability alpha at most. NaN for a group without a unit.

    Source:
        Westfall and Young, "Resampling-based multiple testing" (1993), algorithm 4.1.

    Example:
        >>> differences = np.array([[5.0, 6.0, 5.5, 6.5, 5.2, 6.1], [1.0, -1.0, 2.0, -2.0, 0.5, 0]])
        >>> max_t(differences).round(2).tolist()
        [0.03, 1.0]
    """
    present = np.isfinite(data)
    adjusted = np.full(len(data), np.nan)
    made = np.flatnonzero(present.any(axis=1))
    if not len(made):
        return adjusted
    filled = np.where(present[made], data[made], 0.0)
    squares = (filled**2).sum(axis=1)
    observed = _squared_t(filled.sum(axis=1), squares)
    order = np.argsort(-observed, kind="stable")  # the most significant group first
    filled, squares = filled[order], squares[order]
    reached = observed[order] * (1 - _ROUNDING)
    at_least, tried = np.zeros(len(made)), 0
    units = data.shape[1]
    for signs in sign_flips(units, len(made), n_resamples, seed):
        flipped = _squared_t(signs @ filled.T, squares)  # [flips, groups]
        # Step down: a group is held against itself and those less significant than it.
        largest = np.maximum.accumulate(flipped[:, ::-1], axis=1)[:, ::-1]
        at_least += (largest >= reached).sum(axis=0)
        tried += len(signs)
    exact = tried == 2**units
    p = at_least / tried if exact else (at_least + 1) / (tried + 1)
    adjusted[made[order]] = np.maximum.accumulate(p)
    return adjusted


def _squared_t(sums: Floats, squares: Floats) -> Floats:
    """Squared sums over the sums of squares, which no flip changes: it grows with t squared.

    t itself would be infinite where all flipped differences are equal.
    """
    return np.divide(sums**2, squares, out=np.zeros_like(sums), where=squares > 0)
