"""Steering: the hooks that add a direction to the residual stream.

How a direction is found is in `steering_vectors`, how strongly to add it in `steering_strength`;
their names can be imported from here too. Sources: Turner et al. (2023), "Activation addition";
Rimsky et al. (2024), "Steering Llama 2 via contrastive activation addition".
"""

# First, so that the optimised BLAS is there before MLX.
from mlux.engine import HookWrapper, sites

# isort: split
import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlux.engine.passes import Hook
from mlux.errors import HookError, ParameterError
from mlux.methods.steering_strength import auto_calibrate_alpha, suggest_alpha
from mlux.methods.steering_vectors import compute_steering_vector, compute_steering_vectors

__all__ = [
    "auto_calibrate_alpha",
    "compute_steering_vector",
    "compute_steering_vectors",
    "create_additive_hook",
    "create_steering_hook",
    "steering_hooks",
    "suggest_alpha",
]


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

    Raises:
        ParameterError: If alpha is infinite or not a number.
    """
    if not math.isfinite(alpha):
        raise ParameterError(f"alpha is {alpha}; expected a finite number.")
    # float: a NumPy number would turn the product into a NumPy array.
    scaled = float(alpha) * vector.astype(mx.float32).reshape(-1)

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


def steering_hooks(
    layers: int | Sequence[int], vector: mx.array, alpha: float = 1.0
) -> list[tuple[str, Hook]]:
    """Hooks that add alpha times a vector after one block, or after several.

    Args:
        layers: The block or blocks.
        vector: [d_model].
        alpha: The strength, at each of them.

    Example:
        >>> [path for path, _ in steering_hooks([2, 3], mx.ones(128))]
        ['model.layers.2', 'model.layers.3']
    """
    hook = create_steering_hook(vector, alpha)
    listed = [layers] if isinstance(layers, int) else layers
    return [(sites.resid_post(layer), hook) for layer in listed]
