"""Log-probabilities and softmax summed in pieces, beside MLX's own sums: time and error.

Prints, by size of the last axis, milliseconds for 64 rows, their ratio, and the largest error of
the log-probability of the most probable token against float64. Figures only.
"""

import time
from collections.abc import Callable

from mlux.engine import sums  # before MLX, which binds its BLAS at once

import mlx.core as mx  # isort: skip
import numpy as np
from scipy.special import log_softmax

ROWS, REPEATS = 64, 9


def plain(logits: mx.array) -> mx.array:
    """Log-probabilities with one sum over the whole axis."""
    shifted = logits - mx.max(logits, axis=-1, keepdims=True)
    return shifted - mx.log(mx.sum(mx.exp(shifted), axis=-1, keepdims=True))


def milliseconds(compute: Callable[[mx.array], mx.array], logits: mx.array) -> float:
    """One evaluation."""
    begun = time.perf_counter()
    mx.eval(compute(logits))
    return (time.perf_counter() - begun) * 1e3


def main() -> None:
    """A line a size."""
    pairs = {
        "log_softmax": (plain, sums.log_softmax),
        "softmax": (lambda x: mx.softmax(x, axis=-1, precise=True), sums.softmax),
    }
    print(f"{'size':>8}  {'':12}{'one sum':>10}{'pieces':>10}{'ratio':>8}   error of log p")
    for size in (1_466, 49_152, 262_144):
        drawn = np.random.default_rng(0).normal(0, 3, (ROWS, size)).astype(np.float32)
        logits, exact = mx.array(drawn), log_softmax(drawn.astype(np.float64), axis=-1).max(axis=-1)
        for name, (one, pieces) in pairs.items():
            times = [[milliseconds(f, logits) for f in (one, pieces)] for _ in range(REPEATS)]
            before, after = np.median(times, axis=0)
            errors = ""
            if name == "log_softmax":
                found = [np.array(mx.max(f(logits), axis=-1)) - exact for f in (one, pieces)]
                errors = "   {:.1e} → {:.1e}".format(*(np.abs(error).max() for error in found))
            print(f"{size:8,}  {name:12}{before:10.1f}{after:10.1f}{after / before:8.2f}{errors}")


if __name__ == "__main__":
    main()
