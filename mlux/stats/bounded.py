"""Intervals and tests of numbers that cannot leave a range: accuracies, probabilities, shares.

Twelve right answers of twelve do not prove a model that is never wrong, and no accuracy exceeds 1.
A bootstrap of equal numbers draws the same each time, so its interval has no width; and that of
zeros and ones misses the truth far too often near the ends. There score methods are right.
"""

import numpy as np
from numpy.typing import NDArray

from mlux.stats.arrays import Floats
from mlux.stats.normal import ndtr, ndtri

Bounds = tuple[float, float]
"""The least and the largest value that there can be, in the metric's unit."""

_ROUNDING = 1e-9
Ends = tuple[Floats, Floats]


def wilson(share: Floats, n: int, level: float) -> Ends:
    """Wilson's score interval of shares of n units.

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    z = _z(level)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def newcombe(a: Floats, n_a: int, b: Floats, n_b: int, level: float) -> Ends:
    """The interval of the shares b minus the shares a, of different units.

    Source:
        Newcombe, "Interval estimation for the difference between independent proportions" (1998),
        method 10.
    """
    (low_a, high_a), (low_b, high_b) = wilson(a, n_a, level), wilson(b, n_b, level)
    below = np.hypot(b - low_b, high_a - a)
    above = np.hypot(high_b - b, a - low_a)
    return b - a - below, b - a + above


def bonett_price(data: Floats, level: float) -> Ends:
    """The interval of the mean of paired differences of zeros and ones, [groups, n].

    Source:
        Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial
        proportions based on paired data" (2012).
    """
    n = data.shape[1]
    more = (np.maximum(data, 0).sum(axis=1) + 1) / (n + 2)
    less = (np.maximum(-data, 0).sum(axis=1) + 1) / (n + 2)
    half = _z(level) * np.sqrt((more + less - (more - less) ** 2) / (n + 2))
    return np.maximum(more - less - half, -1.0), np.minimum(more - less + half, 1.0)


def score_equivalence_p(data: Floats, margin: float) -> Floats:
    """P of "shares differ by at least the margin", of paired differences -1, 0 and 1.

    The larger p of Tango's two score tests, and never less than `(1 - margin)**n`: the exact
    chance that no unit of n shows a difference of this size.

    Args:
        data: [groups, n].
        margin: As a share; no p is small if it is 1 or more.

    Source:
        Tango, "Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design" (1998).
    """
    n = data.shape[1]
    more, less = (data > 0).sum(axis=1), (data < 0).sum(axis=1)
    if margin >= 1:
        return np.zeros(len(data))
    tests = [_tango_p(more, less, n, margin), _tango_p(less, more, n, margin)]
    floor: float = (1 - margin) ** n
    return np.maximum(np.maximum(*tests), floor)


def _tango_p(more: NDArray[np.int64], less: NDArray[np.int64], n: int, margin: float) -> Floats:
    """One-sided, of "share of more minus share of less is -margin"."""
    # The likeliest share of `less` under this hypothesis solves a q^2 + b q + c = 0.
    b = -((more + less) * (1 - margin) + 2 * margin * (less + n))
    c = less * margin * (1 + margin)
    likeliest = (-b + np.sqrt(np.maximum(b**2 - 8 * n * c, 0.0))) / (4 * n)
    likeliest = np.clip(likeliest, margin, (1 + margin) / 2)
    variance = n * (2 * likeliest - margin - margin**2)
    return 1 - ndtr((more - less + n * margin) / np.sqrt(variance))


def among(data: Floats, values: tuple[float, ...]) -> NDArray[np.bool_]:
    """Whether a row has these values alone, but for rounding; [groups]."""
    near = [np.abs(data - value) <= _ROUNDING for value in values]
    return np.asarray(np.any(near, axis=0).all(axis=1))


def flat(data: Floats) -> NDArray[np.bool_]:
    """Whether a row has no spread but rounding; [groups]."""
    with np.errstate(invalid="ignore"):
        spread = np.ptp(data, axis=1) <= 1e-12 * np.abs(data).max(axis=1)
    return np.asarray(spread)


def _z(level: float) -> float:
    return float(ndtri((1 + level) / 2))
