"""Is there truly no difference worth speaking of: two one-sided tests."""

import numpy as np

from mlux.errors import ParameterError
from mlux.stats.arrays import Floats


def tost_p(data: Floats, margin: float) -> Floats:
    """P of "the mean paired difference is at least `margin` away from 0", for each row.

    A large p of an ordinary test does not show that two runs are the same; a small one of this
    test shows that they differ by less than the margin.

    Args:
        data: The paired differences of each group, [groups, n].
        margin: The smallest difference that would matter, in the data's unit; more than 0.

    Returns:
        The larger p of the two one-sided t tests against -margin and margin, [groups], float64;
        NaN with fewer than two pairs or where a difference is not finite.

    Raises:
        ParameterError: If the margin is not a positive number.

    Source:
        Schuirmann, "A comparison of the two one-sided tests procedure and the power approach"
        (1987).

    Example:
        >>> near = np.array([[0.01, -0.02, 0.01, 0.0, -0.01]])
        >>> bool(tost_p(near, 0.1)[0] < 0.01 < 0.5 < tost_p(near + 0.2, 0.1)[0])
        True
    """
    if not (np.isfinite(margin) and margin > 0):
        raise ParameterError(
            f"margin is {margin!r}; give the smallest difference that would matter, more than 0."
        )
    n_groups, n = data.shape
    if n < 2:
        return np.full(n_groups, np.nan)
    from scipy.special import stdtr

    p = np.full(n_groups, np.nan)
    finite = np.isfinite(data).all(axis=1)
    mean = data[finite].mean(axis=1)
    error = data[finite].std(axis=1, ddof=1) / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):  # no spread: t is infinite, or 0 / 0
        upper = stdtr(n - 1, (mean - margin) / error)  # is it below the margin
        lower = stdtr(n - 1, (-margin - mean) / error)  # is it above minus the margin
    p[finite] = np.maximum(upper, lower)
    return p
