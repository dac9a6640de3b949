"""Steering vectors: directions in the residual stream, the hooks that add them, and how strongly.

The direction is the difference between what a model holds after a positive and after a negative
prompt, at the last token after one block. Its strength alpha multiplies the vector, so what alpha
does depends on the vector's length and on the residual stream's at that layer;
`auto_calibrate_alpha` turns a fraction of the latter into an alpha. Sources: Turner et al. (2023),
"Activation addition"; Rimsky et al. (2023), "Steering Llama 2 via contrastive activation addition".
"""

# First, so that the optimised BLAS is there before MLX.
from mlux.engine import HookedModel, HookWrapper, sites

# isort: split
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlux.engine.arrays import numbers
from mlux.engine.passes import Hook
from mlux.errors import HookError, ParameterError, UnknownNameError

EFFECTS = {"subtle": 0.5, "moderate": 1.0, "strong": 1.5}
"""The named strengths of `suggest_alpha`."""
USUAL_NORM = 50.0
"""The length of alpha times the vector that mlux 0.2 found moderate on models of 2 to 9B."""


def compute_steering_vector(
    hooked: HookedModel, positive: str | Sequence[str], negative: str | Sequence[str], layer: int
) -> mx.array:
    """The residual stream after a block at the last token: positive minus negative.

    Args:
        hooked: The model.
        positive: A prompt, or several to average over.
        negative: The same of the opposite.
        layer: The block.

    Returns:
        [d_model], in the dtype of the activations.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> compute_steering_vector(model, "the food was amazing", "the food was awful", 3).shape
        (128,)
    """
    difference = _mean_at_last(hooked, positive, layer) - _mean_at_last(hooked, negative, layer)
    vector = difference.astype(hooked.resid_dtype)
    mx.eval(vector)
    return vector


def _mean_at_last(hooked: HookedModel, prompts: str | Sequence[str], layer: int) -> mx.array:
    return mx.mean(_at_last(hooked, prompts, layer), axis=0)


def _at_last(hooked: HookedModel, prompts: str | Sequence[str], layer: int) -> mx.array:
    """The residual stream after a block at each prompt's last token, [batch, d_model], float32."""
    batch = hooked.to_batch([prompts] if isinstance(prompts, str) else list(prompts))
    path = sites.resid_post(layer)
    _, cache = hooked.run_with_cache(batch.tokens, hooks=[path], positions=batch.last)
    at_last = mx.take_along_axis(cache[path], batch.last[:, None, None], axis=1)[:, 0]
    return at_last.astype(mx.float32)


def create_steering_hook(vector: mx.array, alpha: float = 1.0) -> Hook:
    """A hook that adds alpha times a vector at every position, in the activation's own dtype.

    Alpha 0 changes not one bit.

    Args:
        vector: [d_model].
        alpha: The strength.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> hook = create_steering_hook(mx.ones((128,)), alpha=0.0)
        >>> steered = model.run_with_hooks("mary lives in", hooks=[("model.layers.3", hook)])
        >>> bool((steered == model.forward("mary lives in")).all())
        True
    """
    scaled = alpha * vector.astype(mx.float32).reshape(-1)

    def steer(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        if output.shape[-1] != scaled.size:
            raise HookError(
                f"The steering vector has {scaled.size} entries; {wrapper.path!r} has "
                f"{output.shape[-1]}. Compute it on this model, at this layer."
            )
        return output + scaled.astype(output.dtype)

    return steer


def create_additive_hook(deltas: mx.array) -> Hook:
    """A hook that adds something of its own at every position of a prompt.

    Args:
        deltas: [seq, d_model] or [batch, seq, d_model], for a pass over exactly seq tokens.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> hook = create_additive_hook(mx.zeros((4, 128)))
        >>> model.run_with_hooks("mary lives in", hooks=[("model.layers.3", hook)]).shape
        (1, 4, 1466)
    """
    added = deltas if deltas.ndim == 3 else deltas[None]

    def add(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        if output.shape[1:] != added.shape[1:]:
            raise HookError(
                f"The deltas have shape {list(added.shape)}; {wrapper.path!r} has "
                f"{list(output.shape)}. Use them with prefill_with_cache, on the same prompt."
            )
        return output + added.astype(output.dtype)

    return add


def suggest_alpha(vector: mx.array, target_effect: str | float = "moderate") -> float:
    """A first guess at a strength from a vector's length alone, as mlux 0.2 made it.

    A named effect aims at a shift of 50 units times 0.5, 1 or 1.5, with the guess before that
    factor kept from 0.1 to 2. A number is the length that alpha times the vector shall have.
    `auto_calibrate_alpha` looks at the model too, and is the better choice.

    Args:
        vector: [d_model].
        target_effect: subtle, moderate, strong, or a length.

    Example:
        >>> suggest_alpha(mx.ones(100) * 10, "strong")
        0.75
    """
    norm = _norm(vector)
    if not isinstance(target_effect, str):
        return float(target_effect) / norm
    if target_effect not in EFFECTS:
        raise UnknownNameError("effect", target_effect, EFFECTS)
    return min(max(USUAL_NORM / norm, 0.1), 2.0) * EFFECTS[target_effect]


def auto_calibrate_alpha(
    hooked: HookedModel,
    vector: mx.array,
    layer: int,
    prompts: str | Sequence[str],
    target: float = 0.5,
) -> float:
    """The alpha with which the added vector is as long as a fraction of the residual stream.

    Args:
        hooked: The model.
        vector: [d_model].
        layer: The block after which the vector is added.
        prompts: Prompts like those to be steered; the last token of each is measured.
        target: That fraction. Around 0.5 most models change their mind and keep their language.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> auto_calibrate_alpha(model, mx.ones(128), 3, ["the food was"], target=0.0)
        0.0
    """
    lengths = mx.linalg.norm(_at_last(hooked, prompts, layer), axis=-1)
    return float(target * numbers(mx.mean(lengths)) / _norm(vector))


def _norm(vector: mx.array) -> float:
    norm: float = numbers(mx.linalg.norm(vector.astype(mx.float32)))
    if norm == 0.0:
        raise ParameterError("The steering vector is zero: its two prompts do not differ.")
    return norm
