"""Ablation: what a model loses without some of its heads."""

from collections.abc import Iterable
from typing import Any

import mlx.core as mx

from mlux.engine import HookedModel, HookWrapper, sites
from mlux.engine.passes import Hook

Head = tuple[int, int]
"""(layer, head)."""


def zero_heads(heads: Iterable[Head]) -> list[tuple[str, Hook]]:
    """Hooks that set the z of each of these heads to zero."""

    def silence(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return mx.zeros_like(output)

    return [(sites.head(layer, head), silence) for layer, head in heads]


def logits_without(model: HookedModel, tokens: mx.array, heads: Iterable[Head]) -> mx.array:
    """Logits [batch, seq, vocab_size] with the given heads zero-ablated."""
    return model.run_with_hooks(tokens, hooks=zero_heads(heads))
