"""What a block adds to the residual stream, by least squares.

A block's output is a sum: a factor times its input (1, in nearly every model) plus factors times
outputs of modules inside it. The smallest set of the outermost modules that explains the output
says which modules those are: the attention and the MLP themselves (Llama), the norms behind them
(Gemma 2, OLMo 2), both from one input (Cohere), each times a constant (Granite).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlux.engine.arrays import to_numpy
from mlux.engine.trace import ModuleCall
from mlux.errors import ModelError

SMALLEST_FACTOR = 0.01
"""Modules with a smaller factor are not added: half-precision noise stays well below it."""

TOLERANCE = 0.02
"""How much of a block's change may stay unexplained: half-precision rounding."""

ROUNDING = 1e-4
"""What single precision may leave unexplained at most."""

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sum:
    """carry × the block's input + Σ factor × output of a call; in the order of the calls."""

    carry: float
    added: tuple[tuple[ModuleCall, float], ...]


def explain(block: ModuleCall, stream: int | str) -> Sum | None:
    """The sum that is the block's output; None if no sum of its modules' outputs is.

    Args:
        block: The call.
        stream: Which argument is the residual stream.
    """
    given = block.arrays.get(stream)
    if block.value is None or given is None or block.value.shape != given.shape:
        return None
    out, into = to_numpy(block.value).ravel(), to_numpy(given).ravel()
    # Rounding noise grows with what is summed, so an outlier would drown a small term elsewhere.
    weight = 1.0 / (np.abs(out) + np.abs(into) + 1e-3 * np.abs(out).max() + 1e-30)
    order = {id(call): place for place, call in enumerate(block.descendants())}
    outer = [call for call in block.children if _fits(call, block)]
    inner = [inside for call in block.children for inside in call.children if _fits(inside, block)]
    best: tuple[float, Sum] | None = None
    for keeps in (True, False):  # the simplest first: the stream itself is kept as it is
        for candidates in (outer, [*outer, *inner]):
            columns = [_column(call) * weight for call in candidates]
            if keeps:
                fit = _smallest(columns, (out - into) * weight)
            else:
                fit = _smallest([*columns, into * weight], out * weight)
            # Another sum has to be much better: more columns fit rounding too.
            if fit is not None and (best is None or fit[1] + ROUNDING < best[0] / 4):
                factors, unexplained = fit
                carry = 1.0 if keeps else factors.get(len(candidates), 0.0)
                noise = max(4 * unexplained, ROUNDING / 2)
                added = _in_order(candidates, factors, order, noise)
                best = (unexplained + ROUNDING, Sum(_rounded(carry, noise), added))
                if unexplained <= ROUNDING:
                    return best[1]
    return best[1] if best else None


def _fits(call: ModuleCall, block: ModuleCall) -> bool:
    return call.value is not None and call.value.shape == block.value.shape  # type: ignore[union-attr] # the block's is there


def _column(call: ModuleCall) -> Vector:
    assert call.value is not None
    return to_numpy(call.value).ravel()


def _in_order(
    calls: list[ModuleCall], factors: dict[int, float], order: dict[int, int], noise: float
) -> tuple[tuple[ModuleCall, float], ...]:
    added = [(calls[i], _rounded(factor, noise)) for i, factor in factors.items() if i < len(calls)]
    return tuple(sorted(added, key=lambda pair: order[id(pair[0])]))


def _smallest(columns: list[Vector], target: Vector) -> tuple[dict[int, float], float] | None:
    """The fewest columns that sum to the target, by index with their factors, the first preferred.

    With it, the share of the target that they leave unexplained.
    """
    if not columns:
        return None
    factors, unexplained = _fit(columns, target)
    if unexplained > TOLERANCE:
        return None
    kept = [i for i, factor in enumerate(factors) if abs(factor) > SMALLEST_FACTOR]
    enough = max(2 * unexplained, ROUNDING)
    # The last first: what is inside another module comes after it, and is dropped if both explain.
    for index in reversed(list(kept)):
        rest = [i for i in kept if i != index]
        if rest and _fit([columns[i] for i in rest], target)[1] <= enough:
            kept = rest
    if not kept:
        return None
    factors, unexplained = _fit([columns[i] for i in kept], target)
    return (
        (dict(zip(kept, factors, strict=True)), unexplained) if unexplained <= TOLERANCE else None
    )


def _fit(columns: list[Vector], target: Vector) -> tuple[list[float], float]:
    """The factors, and the share of the target that they leave unexplained."""
    matrix = np.stack(columns, axis=1)
    if not (np.isfinite(matrix).all() and np.isfinite(target).all()):
        raise ModelError("This model's activations are not finite; are its weights whole?")
    factors = np.linalg.lstsq(matrix, target, rcond=1e-9)[0]
    left = np.linalg.norm(matrix @ factors - target)
    return list(factors), float(left / (np.linalg.norm(target) + 1e-30))


def _rounded(factor: float, noise: float) -> float:
    """1.0 where the factor is 1 up to rounding, which it nearly always is."""
    return 1.0 if abs(factor - 1.0) < noise else float(factor)
