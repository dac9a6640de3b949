"""How large a difference is, in units that do not depend on the metric."""

import numpy as np

from mlux.stats.arrays import Floats


def cohens_dz(data: Floats) -> Floats:
    """Cohen's d_z of each row: the mean paired difference over the differences' own spread.

    Args:
        data: The paired differences of each group, [groups, n].

    Returns:
        Standard deviations, [groups], float64; NaN with fewer than two pairs or where all
        differences are equal.

    Source:
        Cohen, "Statistical power analysis for the behavioral sciences" (1988), section 2.3.5.

    Example:
        >>> cohens_dz(np.array([[1.0, 2.0, 3.0]])).tolist()
        [2.0]
    """
    if data.shape[1] < 2:
        return np.full(len(data), np.nan)
    return _ratio(data.mean(axis=1), data.std(axis=1, ddof=1), data)


def cohens_d(a: Floats, b: Floats) -> Floats:
    """Cohen's d of each row: mean(b) minus mean(a) over the pooled standard deviation.

    Args:
        a: The units of each group in the first sample, [groups, n_a].
        b: The units of each group in the second sample, [groups, n_b].

    Returns:
        Standard deviations, [groups], float64; NaN with fewer than two units in a sample, or
        without any spread.

    Source:
        Cohen, "Statistical power analysis for the behavioral sciences" (1988), section 2.2.

    Example:
        >>> cohens_d(np.array([[1.0, 2.0, 3.0]]), np.array([[2.0, 3.0, 4.0]])).tolist()
        [1.0]
    """
    n_a, n_b = a.shape[1], b.shape[1]
    if min(n_a, n_b) < 2:
        return np.full(len(a), np.nan)
    squares = (n_a - 1) * a.var(axis=1, ddof=1) + (n_b - 1) * b.var(axis=1, ddof=1)
    spread = np.sqrt(squares / (n_a + n_b - 2))
    return _ratio(b.mean(axis=1) - a.mean(axis=1), spread, np.concatenate([a, b], axis=1))


def cliffs_delta(a: Floats, b: Floats) -> Floats:
    """Cliff's delta of each row: how much more often b is larger than a than the reverse.

    Args:
        a: The units of each group in the first sample, [groups, n_a].
        b: The units of each group in the second sample, [groups, n_b].

    Returns:
        From -1 (every a is larger than every b) to 1, [groups], float64; NaN without units.

    Source:
        Cliff, "Dominance statistics: ordinal analyses to answer ordinal questions" (1993).

    Example:
        >>> cliffs_delta(np.array([[1.0, 2.0]]), np.array([[2.0, 3.0]])).tolist()
        [0.75]
    """
    n_a, n_b = a.shape[1], b.shape[1]
    if not (n_a and n_b):
        return np.full(len(a), np.nan)
    from scipy.stats import rankdata

    # The rank sum counts the pairs that b wins, and half of those that are equal.
    ranks = rankdata(np.concatenate([a, b], axis=1), axis=1)
    wins = ranks[:, n_a:].sum(axis=1) - n_b * (n_b + 1) / 2
    return np.asarray(2 * wins / (n_a * n_b) - 1, dtype=np.float64)


def _ratio(mean: Floats, spread: Floats, data: Floats) -> Floats:
    """Mean / spread; NaN where the spread is nothing but rounding, or data are not finite."""
    with np.errstate(invalid="ignore"):
        real = spread > 1e-12 * np.abs(data).max(axis=1)
    ratio: Floats = np.divide(mean, spread, out=np.full(len(mean), np.nan), where=real)
    return ratio
