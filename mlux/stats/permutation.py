"""Permutation tests: signs flipped where units are paired, labels mixed where they are not.

All groups are relabelled alike, so a relabelling is a row of a matrix and its statistics are one
matrix product. Few units are tested exactly, with every relabelling there is.
"""

from collections.abc import Iterator
from itertools import combinations
from math import comb

import numpy as np

from mlux.stats.arrays import N_RESAMPLES, Floats, blocks

# Up to so many relabellings all are tried; above, they are drawn.
_EXACT = 2**13
# A relabelling this close to the observed one, relative to it, is as extreme: rounding hides none.
_ROUNDING = 1e-12


def sign_flip_p(data: Floats, *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Floats:
    """Two-sided p of "the pairs' differences are symmetric around 0", for each row.

    Args:
        data: The paired differences of each group, [groups, n].
        n_resamples: How many sign flips are drawn where there are too many to try all.
        seed: Equal seeds give equal p.

    Returns:
        The share of sign flips whose mean is at least as far from 0 as the observed one,
        [groups], float64; NaN without pairs or where a difference is not finite. Up to 13 pairs
        all flips are tried.

    Source:
        Fisher, "The design of experiments" (1935).

    Example:
        >>> sign_flip_p(np.array([[1.0, 2.0, 3.0]])).tolist()
        [0.25]
    """
    n_groups, n = data.shape
    finite = np.isfinite(data).all(axis=1)
    p = np.full(n_groups, np.nan)
    if n == 0:
        return p
    data = data[finite]
    observed = np.abs(data.sum(axis=1)) * (1 - _ROUNDING)
    at_least = np.zeros(len(data))
    exact = 2**n <= _EXACT
    for signs in sign_flips(n, len(data), n_resamples, seed):
        at_least += (np.abs(signs @ data.T) >= observed).sum(axis=0)
    p[finite] = at_least / 2**n if exact else (at_least + 1) / (n_resamples + 1)
    return p


def sign_flips(n: int, n_groups: int, n_resamples: int, seed: int) -> Iterator[Floats]:
    """All sign flips of n pairs, or `n_resamples` drawn ones, in blocks [flips, n] of -1 and 1.

    Args:
        n: How many pairs.
        n_groups: How many statistics are made of each flip; it bounds the blocks alone.
        n_resamples: How many are drawn where there are too many to try all.
        seed: Of the drawing.
    """
    exact = 2**n <= _EXACT
    rng = np.random.default_rng(seed)
    for part in blocks(2**n if exact else n_resamples, max(n, n_groups)):
        if exact:
            bits = np.arange(part.start, part.stop)[:, None] >> np.arange(n) & 1
        else:
            bits = rng.integers(0, 2, (part.stop - part.start, n))
        yield np.asarray(2.0 * bits - 1, np.float64)


def permutation_p(a: Floats, b: Floats, *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Floats:
    """Two-sided p of "both samples are of one distribution", by their means, for each row.

    Args:
        a: The units of each group in the first sample, [groups, n_a].
        b: The units of each group in the second sample, [groups, n_b].
        n_resamples: How many relabellings are drawn where there are too many to try all.
        seed: Equal seeds give equal p.

    Returns:
        Twice the smaller one-sided share of relabellings whose difference of means is at least as
        extreme, at most 1, [groups], float64; NaN without units or where one is not finite.

    Source:
        Pitman, "Significance tests which may be applied to samples from any populations" (1937).

    Example:
        >>> permutation_p(np.array([[1.0, 2.0, 3.0]]), np.array([[7.0, 8.0, 9.0]])).tolist()
        [0.1]
    """
    n_groups, n_a = a.shape
    n_b = b.shape[1]
    p = np.full(n_groups, np.nan)
    if not (n_a and n_b):
        return p
    together = np.concatenate([a, b], axis=1)  # [groups, n_a + n_b]
    finite = np.isfinite(together).all(axis=1)
    together = together[finite]
    observed = together[:, n_a:].sum(axis=1)
    # With the total fixed, the sum over b orders relabellings as the difference of means does.
    slack = _ROUNDING * np.abs(together).sum(axis=1)
    more, less = np.zeros(len(together)), np.zeros(len(together))
    exact = comb(n_a + n_b, n_b) <= _EXACT
    for labels in _labels(n_a + n_b, n_b, len(together), n_resamples, seed):
        sums = labels @ together.T  # [relabellings, groups]
        more += (sums >= observed - slack).sum(axis=0)
        less += (sums <= observed + slack).sum(axis=0)
    tried = comb(n_a + n_b, n_b) if exact else n_resamples + 1
    p[finite] = np.minimum(1.0, 2 * (np.minimum(more, less) + (not exact)) / tried)
    return p


def _labels(n: int, n_b: int, n_groups: int, n_resamples: int, seed: int) -> Iterator[Floats]:
    """Which of n units are called b, in blocks [relabellings, n] of 0 and 1."""
    exact = comb(n, n_b) <= _EXACT
    subsets = np.array(list(combinations(range(n), n_b))) if exact else None
    rng = np.random.default_rng(seed)
    for part in blocks(len(subsets) if subsets is not None else n_resamples, max(n, n_groups)):
        rows = part.stop - part.start
        if subsets is not None:
            chosen = subsets[part]
        else:
            chosen = np.argpartition(rng.random((rows, n)), n_b - 1, axis=1)[:, :n_b]
        labels = np.zeros((rows, n))
        np.put_along_axis(labels, chosen, 1.0, axis=1)
        yield labels
