"""Bootstrap intervals of means and of differences of means: Efron's BCa (1987).

The numbers are those of `scipy.stats.bootstrap` with the same seed. All groups are drawn alike, so
a resample is a matrix of counts and its means are one matrix product: 5,000 heads take seconds,
where gathering each resample of each head takes minutes.
"""

import numpy as np
from numpy.typing import NDArray

from mlux.stats.arrays import N_RESAMPLES, Floats, blocks
from mlux.stats.bounded import Bounds, Ends, among, bonett_price, newcombe, wilson
from mlux.stats.normal import ndtr, ndtri

# Resampled means this close to the observed one, relative to the data, are equal to it.
_ROUNDING = 1e-12


def mean_interval(
    data: Floats,
    *,
    bounds: Bounds | None = None,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Interval of each row's mean: a bootstrap, or Wilson's where bounded units are all at an end.

    Args:
        data: The units of each group, [groups, n], in the data's own unit.
        bounds: What the units cannot exceed. Rows of nothing but these two get Wilson's score
            interval, which has a width and stays inside.
        level: The confidence level.
        n_resamples: How often the units are drawn anew.
        seed: Equal seeds give equal intervals.

    Returns:
        Lower and upper ends, [groups] each, float64. Where all units are equal and at
        no end, both are their mean; with a single unit nothing is known about the spread, and both
        are NaN; so they are where a unit is infinite or missing.

    Source:
        Efron, "Better bootstrap confidence intervals" (1987).

    Example:
        >>> low, high = mean_interval(np.array([[1.0, 2.0, 3.0, 4.0]]))
        >>> bool(1.0 < low[0] < 2.5 < high[0] < 4.0)
        True
    """
    found = _intervals([data], level, n_resamples, seed)
    n = data.shape[1]
    if bounds is None or n < 2:
        return found
    low, high = bounds
    share = (data - low) / (high - low)
    chosen = _inside(share, 0.0) & among(share, (0.0, 1.0))
    _put(found, chosen, wilson(share[chosen].mean(axis=1), n, level), high - low, low)
    return found


def paired_interval(
    data: Floats,
    *,
    bounds: Bounds | None = None,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Interval of each row's mean paired difference.

    Args:
        data: The paired differences of each group, [groups, n].
        bounds: What the units that were subtracted cannot exceed. Differences of nothing but
            these two get the interval of Bonett and Price, which has a width and stays inside.
        level: The confidence level.
        n_resamples: How often the units are drawn anew.
        seed: Equal seeds give equal intervals.

    Returns:
        Lower and upper ends, [groups] each, float64; otherwise as `mean_interval`.

    Source:
        Efron, "Better bootstrap confidence intervals" (1987); Bonett and Price (2012).

    Example:
        >>> low, high = paired_interval(np.zeros((1, 24)), bounds=(0, 1))
        >>> bool(low[0] < -0.1 < 0.1 < high[0])
        True
    """
    found = _intervals([data], level, n_resamples, seed)
    if bounds is None or data.shape[1] < 2:
        return found
    width = bounds[1] - bounds[0]
    share = data / width
    chosen = _inside(share, -1.0) & among(share, (-1.0, 0.0, 1.0))
    _put(found, chosen, bonett_price(share[chosen], level), width, 0.0)
    return found


def difference_interval(
    a: Floats,
    b: Floats,
    *,
    bounds: Bounds | None = None,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Bootstrap interval of mean(b) minus mean(a), row by row, where nothing pairs the units.

    Args:
        a: The units of each group in the first sample, [groups, n_a].
        b: The units of each group in the second sample, [groups, n_b].
        bounds: What the units cannot exceed: as for `mean_interval`, with Newcombe's interval.
        level: The confidence level.
        n_resamples: How often the units of each sample are drawn anew.
        seed: Equal seeds give equal intervals.

    Returns:
        Lower and upper ends, [groups] each, float64; NaN as in `mean_interval`.

    Source:
        Efron, "Better bootstrap confidence intervals" (1987).

    Example:
        >>> a, b = np.array([[1.0, 2.0, 3.0]]), np.array([[11.0, 12.0, 13.0]])
        >>> low, high = difference_interval(a, b)
        >>> bool(low[0] < 10 < high[0])
        True
    """
    found = _intervals([a, b], level, n_resamples, seed)
    n_a, n_b = a.shape[1], b.shape[1]
    if bounds is None or min(n_a, n_b) < 2:
        return found
    low, high = bounds
    shares = [(sample - low) / (high - low) for sample in (a, b)]
    binary = np.all([among(share, (0.0, 1.0)) for share in shares], axis=0)
    chosen = binary & _inside(shares[0], 0.0) & _inside(shares[1], 0.0)
    means = [share[chosen].mean(axis=1) for share in shares]
    _put(found, chosen, newcombe(means[0], n_a, means[1], n_b, level), high - low, 0.0)
    return found


def _inside(share: Floats, low: float) -> NDArray[np.bool_]:
    """Whether no unit of a row lies outside of low to 1: then its bounds are not what is said."""
    with np.errstate(invalid="ignore"):
        inside = (share >= low - _ROUNDING).all(axis=1) & (share <= 1 + _ROUNDING).all(axis=1)
    return np.asarray(inside)


def _put(found: Ends, chosen: NDArray[np.bool_], ends: Ends, width: float, low: float) -> None:
    for place, end in zip(found, ends, strict=True):
        place[chosen] = low + width * end


def _intervals(
    samples: list[Floats], level: float, n_resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """Ends of the interval of the last sample's mean, less that of the one before it."""
    n_groups = len(samples[0])
    low, high = np.full(n_groups, np.nan), np.full(n_groups, np.nan)
    if min(sample.shape[1] for sample in samples) < 2:
        return low, high
    finite = np.all([np.isfinite(sample).all(axis=1) for sample in samples], axis=0)
    spread = finite & np.any([_spreads(sample) for sample in samples], axis=0)
    for ends in (low, high):
        ends[finite] = _statistic([sample[finite] for sample in samples])
    places = np.flatnonzero(spread)
    for part in blocks(len(places), n_resamples):
        chosen = places[part]
        low[chosen], high[chosen] = _bca(
            [sample[chosen] for sample in samples], level, n_resamples, seed
        )
    return low, high


def _spreads(sample: Floats) -> NDArray[np.bool_]:
    """Whether a row's units differ by more than rounding: BCa divides by their spread."""
    with np.errstate(invalid="ignore"):
        wide: NDArray[np.bool_] = np.ptp(sample, axis=1) > _ROUNDING * np.abs(sample).max(axis=1)
    return wide


def _statistic(samples: list[Floats]) -> Floats:
    means: list[Floats] = [sample.mean(axis=1) for sample in samples]
    return _last_less_first(means)


def _last_less_first(means: list[Floats]) -> Floats:
    return means[0] if len(means) == 1 else means[1] - means[0]


def _bca(samples: list[Floats], level: float, n_resamples: int, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    means = [_resampled_means(sample, n_resamples, rng) for sample in samples]
    drawn = _last_less_first(means)  # [groups, n_resamples]
    observed = _statistic(samples)[:, None]
    size = np.max([np.abs(sample).max(axis=1) for sample in samples], axis=0)[:, None]
    ties = np.abs(drawn - observed) <= _ROUNDING * size
    below = ((drawn < observed) & ~ties).sum(axis=1) + ties.sum(axis=1) / 2
    bias = ndtri(below / n_resamples)
    # The influence of a unit on a mean is its distance from it; signs as in mean(b) - mean(a).
    centred = [sample - sample.mean(axis=1, keepdims=True) for sample in samples]
    if len(centred) == 2:
        centred[0] = -centred[0]
    third = sum((x**3).sum(axis=1) / x.shape[1] ** 3 for x in centred)
    second = sum((x**2).sum(axis=1) / x.shape[1] ** 2 for x in centred)
    acceleration = third / second**1.5 / 6
    drawn.sort(axis=1)
    ends = []
    for normal in ndtri([(1 - level) / 2, (1 + level) / 2]):
        shifted = bias + normal
        ends.append(_quantiles(drawn, ndtr(bias + shifted / (1 - acceleration * shifted))))
    return ends[0], ends[1]


def _resampled_means(sample: Floats, n_resamples: int, rng: np.random.Generator) -> Floats:
    """The mean of each group in each resample, [groups, n_resamples]."""
    n_groups, n = sample.shape
    means = np.empty((n_groups, n_resamples))
    for part in blocks(n_resamples, n):
        rows = part.stop - part.start
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means[:, part] = sample @ counts.T.astype(np.float64) / n
    return means


def _quantiles(ordered: Floats, shares: Floats) -> Floats:
    """A quantile of each row of sorted numbers, with linear interpolation."""
    places = shares * (ordered.shape[1] - 1)
    before = np.clip(np.floor(places).astype(np.int64), 0, ordered.shape[1] - 1)
    after = np.minimum(before + 1, ordered.shape[1] - 1)
    rows = np.arange(len(ordered))
    lower: Floats = ordered[rows, before]
    upper: Floats = ordered[rows, after]
    found: Floats = lower + (upper - lower) * (places - before)
    return found
