"""Ablation: what a model loses without some of its heads."""

from collections.abc import Iterable
from typing import Any

import mlx.core as mx

from mlux.engine import HookedModel, HookWrapper, sites
from mlux.engine.passes import Hook

Head = tuple[int, int]
"""(layer, head)."""


def zero_heads(heads: Iterable[Head]) -> list[tuple[str, Hook]]:
    """Hooks that set the z of each of these heads to zero.

    Example:
        >>> [path for path, _ in zero_heads([(2, 0), (2, 3)])]
        ['model.layers.2.self_attn.head.0', 'model.layers.2.self_attn.head.3']
    """

    def silence(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return mx.zeros_like(output)

    return [(sites.head(layer, head), silence) for layer, head in heads]


def logits_without(model: HookedModel, tokens: mx.array, heads: Iterable[Head]) -> mx.array:
    """Logits [batch, seq, vocab_size] with the given heads zero-ablated.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> logits_without(model, model.to_batch("mary lives in").tokens, [(2, 0)]).shape
        (1, 4, 1466)
    """
    return model.run_with_hooks(tokens, hooks=zero_heads(heads))
