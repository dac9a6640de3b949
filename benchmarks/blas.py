"""A float32 matrix product through MLX and through NumPy, in the same process.

    python benchmarks/blas.py [SIZE]

NumPy brings an optimised BLAS of its own; with OpenBLAS or MKL installed, MLX may take 1.5 times as
long. `MLUX_BLAS=none` shows MLX's own. Only a Linux CPU uses BLAS; elsewhere this prints figures
and demands nothing.
"""

import statistics
import sys
import time
from collections.abc import Callable

from mlux.engine import blas  # before MLX, which binds its BLAS at once

import mlx.core as mx  # isort: skip
import numpy as np

REPEATS = 15
ALLOWED = 1.5


def gflops(size: int, product: Callable[[], object]) -> float:
    """10⁹ multiplications and additions a second of one product."""
    start = time.perf_counter()
    product()
    return 2 * size**3 / (time.perf_counter() - start) / 1e9


def main(size: int = 1024) -> int:
    """Prints both speeds and their ratio; 1 if an optimised BLAS was loaded and MLX is too slow."""
    loaded = blas.load()
    random = np.random.default_rng(0)
    left, right = (random.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    a, b = mx.array(left), mx.array(right)
    assert np.allclose(np.array(a @ b), left @ right, atol=1e-2)  # warms up as well
    pairs = [
        (gflops(size, lambda: left @ right), gflops(size, lambda: mx.eval(a @ b)))
        for _ in range(REPEATS)
    ]
    ratio = statistics.median(theirs / ours for theirs, ours in pairs)
    by_numpy, by_mlx = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"BLAS of MLX: {loaded.library or 'its own'} ({loaded.reason})")
    print(f"NumPy {by_numpy:6.1f} GFLOP/s")
    print(f"MLX   {by_mlx:6.1f} GFLOP/s, {ratio:.2f} times as long; allowed {ALLOWED}")
    return int(loaded.library is not None and ratio > ALLOWED)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
