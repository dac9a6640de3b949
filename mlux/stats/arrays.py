"""What every statistic here shares: the type of its numbers, and how many are held at once."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

N_RESAMPLES = 9999
"""How often data are drawn anew or relabelled unless another number is asked for."""

BLOCK = 4_000_000
"""Numbers held at once while resampling: 32 MB."""


def blocks(total: int, width: int) -> Iterator[slice]:
    """Slices of `range(total)`, each of so many rows of `width` numbers as fill a block."""
    step = max(1, BLOCK // max(width, 1))
    return (slice(start, min(start + step, total)) for start in range(0, total, step))
