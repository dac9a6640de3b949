"""A norm with its scale held fixed, which makes it linear: what each summand becomes behind it.

RMSNorm and LayerNorm divide their input by one number, its root mean square or its standard
deviation. With that number taken from the whole input, the norm of a sum is the sum of the norms
of its parts. Which of the two a module is, and its gain and bias, are learned by calling it on
probes, so Gemma's 1 + w and norms without a gain need no line of their own. Source: Elhage et al.
(2021), "A Mathematical Framework for Transformer Circuits", on layer norm.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

PROBE = 64.0
"""Size of the probes: next to its square no norm's epsilon counts, and float16 still holds it."""

TOLERANCE, HALF_TOLERANCE = 1e-4, 0.02
"""What single and half precision may leave unexplained, as a share of what is explained."""


@dataclass(frozen=True, kw_only=True)
class FrozenNorm:
    """A norm at given inputs, with their scales held fixed.

    Attributes:
        gain: [d_model] float32.
        bias: [d_model] float32; zeros where the norm has none.
        centred: Whether it subtracts the mean.
        scale: [rows] float32, what each input is divided by.
    """

    gain: mx.array
    bias: mx.array
    centred: bool
    scale: mx.array

    def linear(self, parts: mx.array) -> mx.array:
        """What parts of the inputs become, without the bias: [rows, …, d_model] float32."""
        parts = parts.astype(mx.float32)
        if self.centred:
            parts = parts - mx.mean(parts, axis=-1, keepdims=True)
        scale = self.scale.reshape(-1, *[1] * (parts.ndim - 1))
        return parts * self.gain / scale


def freeze_norm(
    module: Callable[[mx.array], mx.array], given: mx.array, returned: mx.array
) -> FrozenNorm | None:
    """The norm that a module is, frozen at given inputs; None if it is no such norm.

    Args:
        module: What may be a norm over the last axis.
        given: [rows, d_model], its inputs.
        returned: [rows, d_model], what it returned for them.

    Example:
        >>> import mlx.nn as nn
        >>> norm, x = nn.LayerNorm(4), mx.array([[1.0, 2.0, 3.0, 6.0]])
        >>> frozen = freeze_norm(norm, x, norm(x))
        >>> frozen.centred, bool(mx.allclose(frozen.linear(x) + frozen.bias, norm(x)))
        (True, True)
    """
    width = given.shape[-1]
    signs = mx.where(mx.arange(width) % 2 == 0, PROBE, -PROBE)
    probes = mx.stack([mx.zeros(width), signs, signs + PROBE])[:, None]  # [3, 1, d_model]
    answers = module(probes.astype(given.dtype))
    if answers.shape != probes.shape or width % 2:
        return None
    bias, of_signs, shifted = answers[:, 0].astype(mx.float32)
    gain = (of_signs - bias) * mx.sign(signs)
    centred = bool(mx.allclose(shifted, of_signs, rtol=HALF_TOLERANCE, atol=1e-6).item())
    whole = FrozenNorm(gain=gain, bias=bias, centred=centred, scale=mx.ones(given.shape[0]))
    unscaled, target = whole.linear(given), returned.astype(mx.float32) - bias
    scale = mx.sum(unscaled * unscaled, axis=-1) / mx.sum(unscaled * target, axis=-1)
    frozen = FrozenNorm(gain=gain, bias=bias, centred=centred, scale=scale)
    return frozen if nearly_equal(frozen.linear(given), target, returned.dtype) else None


def nearly_equal(found: mx.array, expected: mx.array, dtype: mx.Dtype = mx.float32) -> bool:
    """Whether every row, [rows, d_model], is explained up to the rounding of a dtype.

    Example:
        >>> nearly_equal(mx.array([[1.0, 2.0]]), mx.array([[1.0, 2.1]]))
        False
    """
    expected = expected.astype(mx.float32)
    error = mx.linalg.norm(found.astype(mx.float32) - expected, axis=-1)
    share = TOLERANCE if dtype == mx.float32 else HALF_TOLERANCE
    return bool(mx.all(error <= share * mx.linalg.norm(expected, axis=-1) + 1e-6).item())
