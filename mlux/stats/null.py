"""An effect against its controls: random heads and random directions as the null distribution."""

import numpy as np

from mlux.stats.arrays import Floats


def null_p(effect: Floats, controls: Floats) -> Floats:
    """Two-sided p of "the effect is one more draw of what the controls are", for each row.

    Args:
        effect: The effect of each group, [groups].
        controls: The same of each control, [groups, n_controls]; NaN where a group lacks one.

    Returns:
        Twice the smaller share of draws, the effect among them, that are at least as extreme, at
        most 1, [groups], float64; NaN without a control. Its smallest value is
        2 / (n_controls + 1): it takes 39 controls to reach 0.05.

    Source:
        North, Curtis and Sham, "A note on the calculation of empirical P values" (2002).

    Example:
        >>> null_p(np.array([9.0]), np.arange(3.0)[None]).tolist()
        [0.5]
    """
    n = np.isfinite(controls).sum(axis=1)
    more = 1 + (controls >= effect[:, None]).sum(axis=1)
    less = 1 + (controls <= effect[:, None]).sum(axis=1)
    p = np.minimum(1.0, 2 * np.minimum(more, less) / (n + 1))
    return np.where((n > 0) & np.isfinite(effect), p, np.nan)
