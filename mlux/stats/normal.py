"""The normal distribution, as `scipy.special` has it, without the time that its import takes."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from mlux.stats.arrays import Floats

_STANDARD = NormalDist()


def ndtr(x: npt.ArrayLike) -> Floats:
    """The share of a standard normal distribution below each x.

    Example:
        >>> ndtr([0.0, 1.96]).round(3).tolist()
        [0.5, 0.975]
    """
    return _each(_STANDARD.cdf, x)


def ndtri(p: npt.ArrayLike) -> Floats:
    """Below which x a share p of it lies; infinite for 0 and 1, NaN outside.

    Example:
        >>> ndtri([0.0, 0.5, 0.975]).round(2).tolist()
        [-inf, 0.0, 1.96]
    """
    return _each(_quantile, p)


def _each(function: Callable[[float], float], x: npt.ArrayLike) -> Floats:
    given = np.asarray(x, dtype=np.float64)
    return np.array([function(one) for one in given.ravel().tolist()]).reshape(given.shape)


def _quantile(p: float) -> float:
    if 0 < p < 1:
        return _STANDARD.inv_cdf(p)
    return {0.0: -np.inf, 1.0: np.inf}.get(p, np.nan)
