"""The residual stream of many prompts at a few places each, which directions are learned from."""

from collections.abc import Iterable, Sequence
from typing import Any

import mlx.core as mx

from mlux.engine import HookedModel, sites
from mlux.engine.batching import TokenBatch
from mlux.errors import PromptError

ROWS = 32
"""Prompts that one forward pass reads; what is kept of them is small."""

Prompts = str | Sequence[str] | Sequence[Sequence[int]]
"""A text, several, or rows of token ids."""


def residuals_from_end(
    hooked: HookedModel, prompts: Prompts, layers: Iterable[int], positions: Sequence[int] = (-1,)
) -> dict[int, mx.array]:
    """The residual stream after blocks at places counted from each prompt's own end.

    Args:
        hooked: The model.
        prompts: Texts or rows of token ids, of any lengths from the farthest position on.
        layers: The blocks.
        positions: -1 is a prompt's last token, -2 the one before it.

    Returns:
        Layer → [prompts, positions, d_model], float32, evaluated.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> found = residuals_from_end(model, ["mary lives in", "peru"], [3, 5], [-2, -1])
        >>> found[3].shape
        (2, 2, 128)
    """
    paths = {layer: sites.resid_post(layer) for layer in layers}
    parts: dict[int, list[mx.array]] = {layer: [] for layer in paths}
    for batch in in_batches(hooked, prompts):
        _, cache = hooked.run_with_cache(batch.tokens, hooks=paths.values(), positions=batch.last)
        places = batch.last[:, None] + 1 + mx.array(list(positions))[None]  # [batch, positions]
        for layer, path in paths.items():
            at_places = mx.take_along_axis(cache[path], places[..., None], axis=1)
            parts[layer].append(at_places.astype(mx.float32))
        mx.eval([of_layer[-1] for of_layer in parts.values()])
    return {layer: mx.concatenate(of_layer) for layer, of_layer in parts.items()}


def in_batches(hooked: HookedModel, prompts: Prompts, rows: int = ROWS) -> Iterable[TokenBatch]:
    """Right-padded batches of a few prompts, in their order.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> [batch.lengths for batch in in_batches(model, ["peru", "mary lives in"], rows=1)]
        [(2,), (4,)]
    """
    listed: Sequence[Any] = [prompts] if isinstance(prompts, str) else prompts
    if not len(listed):
        raise PromptError("There are no prompts to read: the list is empty.")
    for start in range(0, len(listed), rows):
        yield hooked.to_batch(list(listed[start : start + rows]))
