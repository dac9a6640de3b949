"""What a model's head reads behind the final norm: a linear map, and perhaps a soft-cap.

The direction that a logit difference is read along is the head's own gradient, at zero, where a
soft-cap c · tanh(x / c) is the identity. Whether the logits are that linear map, or an increasing
function of it, is measured on the whole vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlux.engine import HookedModel, HookWrapper
from mlux.errors import ModelError
from mlux.methods.scores import logit_diff

SHRUNK = 2.0**-8
"""So small a residual stream that no soft-cap bends its logits; a power of 2 rounds nothing."""

TOLERANCE, HALF_TOLERANCE = 1e-3, 0.03
"""How far logits may lie from what is linear, as a share of the largest, by precision."""


@dataclass(frozen=True, kw_only=True)
class Readout:
    """How a logit difference is read behind the final norm.

    Attributes:
        direction: [rows, d_model] float32.
        constant: [rows], from the head's bias.
        logit_diff: [rows], the model's own.
        capped: Whether the logits are a soft-cap of what is linear.
    """

    direction: mx.array
    constant: mx.array
    logit_diff: mx.array
    capped: bool


def read_head(
    model: HookedModel,
    normed: mx.array,
    logits: mx.array,
    answers: mx.array,
    wrong_answers: mx.array,
) -> Readout:
    """The direction behind the final norm along which logit(answer) − logit(wrong) is read.

    Args:
        model: The model.
        normed: [rows, d_model], what the final norm returned.
        logits: [rows, vocab_size], the model's own.
        answers: [rows] token ids.
        wrong_answers: [rows] token ids.

    Example:
        >>> from mlux import HookedModel
        >>> from mlux.methods.reading import read_at
        >>> model = HookedModel.from_pretrained("demo")
        >>> batch = model.to_batch("mary lives in")
        >>> read, logits = read_at(model, batch.tokens, batch.last, ["model.norm"])
        >>> normed, (one, other) = read["model.norm"], (mx.array([7]), mx.array([8]))
        >>> readout = read_head(model, normed, logits, one, other)
        >>> difference = mx.sum(readout.direction * normed, axis=-1) - readout.logit_diff
        >>> readout.capped, bool(mx.abs(difference) < 1e-4)
        (False, True)

    Raises:
        ModelError: If the logits are no increasing function of a linear map.
    """
    zeros = mx.zeros(normed.shape)

    def difference(inputs: mx.array) -> mx.array:
        return mx.sum(logit_diff(head_of(model, inputs), answers, wrong_answers))

    direction = mx.grad(difference)(zeros)
    at_zero = head_of(model, zeros).astype(mx.float32)
    shrunk = head_of(model, normed.astype(mx.float32) * SHRUNK).astype(mx.float32)
    linear = (shrunk - at_zero) / SHRUNK + at_zero
    return Readout(
        direction=direction,
        constant=logit_diff(at_zero, answers, wrong_answers),
        logit_diff=logit_diff(logits, answers, wrong_answers),
        capped=_is_capped(linear, logits.astype(mx.float32), normed.dtype),
    )


def head_of(model: HookedModel, normed: mx.array) -> mx.array:
    """The logits of what the final norm might return, [rows, d_model] → [rows, vocab_size], lazy.

    Example:
        >>> from mlux import HookedModel
        >>> head_of(HookedModel.from_pretrained("demo"), mx.zeros((2, 128))).shape
        (2, 1466)
    """

    def replace(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return normed[:, None].astype(output.dtype)

    last = len(model.layers) - 1
    # Nothing before the norm is needed, so it never runs.
    resid = mx.zeros((normed.shape[0], 1, normed.shape[1]), dtype=model.resid_dtype)
    logits, _ = model.run_from(last, resid, hooks=[("model.norm", replace)])
    return logits[:, 0]


def _is_capped(linear: mx.array, logits: mx.array, dtype: mx.Dtype) -> bool:
    """False where the logits are linear, true where they increase with what is."""
    real = mx.isfinite(logits) & mx.isfinite(linear)  # a head may write -inf at no token
    linear, logits = (mx.where(real, array, 0.0) for array in (linear, logits))
    share = TOLERANCE if dtype == mx.float32 else HALF_TOLERANCE
    allowed = share * mx.max(mx.abs(logits), axis=-1, keepdims=True)
    if bool(mx.all(mx.abs(logits - linear) <= allowed).item()):
        return False
    ordered = mx.take_along_axis(logits, mx.argsort(linear, axis=-1), axis=-1)
    if bool(mx.all(mx.cummax(ordered, axis=-1) - ordered <= allowed).item()):
        return True
    raise ModelError(
        "This model has no direct logit attribution: its logits are neither linear in what its "
        "final norm returns nor a soft-cap of that."
    )
