"""Is a difference real: intervals, paired tests, and correction for having looked many times.

Plain functions on arrays. The bootstrap is Efron's BCa (1987) and the correction Benjamini and
Hochberg's (1995), both from SciPy; the paired test flips signs (Fisher 1935). SciPy is imported
when it is needed: it costs half a second.
"""

import warnings

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

N_RESAMPLES = 9999
# Above this many pairs the sign flips are drawn; below, every one of them is tried.
_EXACT_PAIRS = 13
# Numbers held at once while resampling, about 160 MB.
_MEMORY = 20_000_000


def mean_interval(
    data: Floats, *, level: float = 0.95, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> tuple[Floats, Floats]:
    """Bootstrap interval of each row's mean.

    Args:
        data: The units of each group, [groups, n].
        level: The confidence level.
        n_resamples: How often the units are drawn anew.
        seed: Equal seeds give equal intervals.

    Returns:
        Lower and upper ends, [groups] each. Where all units are equal, both are their mean; with
        a single unit nothing is known about the spread, and both are NaN.
    """
    from scipy import stats

    n_groups, n = data.shape
    low = data.mean(axis=1) if n else np.full(n_groups, np.nan)
    high = low.copy()
    if n < 2:
        return np.full(n_groups, np.nan), np.full(n_groups, np.nan)
    # Equal up to rounding: BCa divides by the spread.
    spread = np.ptp(data, axis=1) > 1e-12 * np.abs(data).max(axis=1)
    rows = data[spread]
    if len(rows):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            found = stats.bootstrap(
                (rows,),
                np.mean,
                axis=1,
                vectorized=True,
                confidence_level=level,
                n_resamples=n_resamples,
                batch=max(1, _MEMORY // rows.size),
                method="BCa",
                rng=np.random.default_rng(seed),
            ).confidence_interval
        low[spread], high[spread] = found.low, found.high
    return low, high


def sign_flip_p(data: Floats, *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Floats:
    """Two-sided p of "the pairs' differences are symmetric around 0", for each row.

    Args:
        data: The paired differences of each group, [groups, n].
        n_resamples: How many sign flips are drawn where there are too many to try all.
        seed: Equal seeds give equal p.

    Returns:
        The share of sign flips whose mean is at least as far from 0 as the observed one, [groups];
        NaN without pairs.
    """
    n_groups, n = data.shape
    if n == 0:
        return np.full(n_groups, np.nan)
    exact = n <= _EXACT_PAIRS
    n_flips = 2**n if exact else n_resamples
    # Rounding must not hide a flip that is as extreme as the observed signs.
    observed = np.abs(data.sum(axis=1)) * (1 - 1e-12)
    rng = np.random.default_rng(seed)
    at_least = np.zeros(n_groups)
    step = max(1, _MEMORY // max(n, n_groups))
    for start in range(0, n_flips, step):
        stop = min(start + step, n_flips)
        if exact:
            bits = np.arange(start, stop)[:, None] >> np.arange(n) & 1
        else:
            bits = rng.integers(0, 2, (stop - start, n))
        flipped = (2.0 * bits - 1) @ data.T  # [flips, groups]
        at_least += (np.abs(flipped) >= observed).sum(axis=0)
    # A drawn sample counts the observed signs as one of its flips, so that p is never 0.
    return at_least / n_flips if exact else (at_least + 1) / (n_flips + 1)


def benjamini_hochberg(p: Floats) -> Floats:
    """The false discovery rate at which each test would be called a discovery.

    Args:
        p: p-values, [tests]; NaN for a test that could not be made.

    Returns:
        Adjusted p-values (q), [tests]; NaN stays NaN and does not count as a test.
    """
    q = np.full(len(p), np.nan)
    made = ~np.isnan(p)
    if made.any():
        from scipy import stats

        q[made] = stats.false_discovery_control(p[made], method="bh")
    return q
