"""Is there truly no difference worth speaking of: two one-sided tests."""

import numpy as np

from mlux.errors import ParameterError
from mlux.stats.arrays import Floats
from mlux.stats.bounded import Bounds, among, flat, score_equivalence_p


def tost_p(data: Floats, margin: float, *, bounds: Bounds | None = None) -> Floats:
    """P of "the mean paired difference is at least `margin` away from 0", for each row.

    A large p of an ordinary test does not show that two runs are the same; a small one of this
    test shows that they differ by less than the margin.

    Args:
        data: The paired differences of each group, [groups, n].
        margin: The smallest difference that would matter, in the data's unit; more than 0.
        bounds: What the units that were subtracted cannot exceed. Where they are nothing but these
            two (right or wrong), Tango's score test takes the place of the t tests.

    Returns:
        The larger p of the two one-sided t tests against -margin and margin, [groups], float64;
        NaN with fewer than two pairs or where a difference is not finite. Equal differences tell a
        t test nothing of their spread: with bounds p is then `(1 - margin / width)**n`, the chance
        that n pairs hide a difference of this size, and NaN without.

    Raises:
        ParameterError: If the margin is not a positive number.

    Source:
        Schuirmann, "A comparison of the two one-sided tests procedure and the power approach"
        (1987); Tango (1998), as in `stats.bounded`.

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
    still = finite & flat(data)
    chosen = finite & ~still
    mean = data[chosen].mean(axis=1)
    error = data[chosen].std(axis=1, ddof=1) / np.sqrt(n)
    upper = stdtr(n - 1, (mean - margin) / error)  # is it below the margin
    lower = stdtr(n - 1, (-margin - mean) / error)  # is it above minus the margin
    p[chosen] = np.maximum(upper, lower)
    hidden = np.nan if bounds is None else max(1 - margin / (bounds[1] - bounds[0]), 0.0) ** n
    p[still] = np.where(np.abs(data[still].mean(axis=1)) < margin, hidden, 1.0)
    if bounds is not None:
        share = data / (bounds[1] - bounds[0])
        binary = among(share, (-1.0, 0.0, 1.0))
        p[binary] = score_equivalence_p(np.rint(share[binary]), margin / (bounds[1] - bounds[0]))
    return p
