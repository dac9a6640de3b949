"""Which heads do induction: attention scores, and accuracy with each head ablated.

Scores as in Olsson et al. 2022, "In-context learning and induction heads".
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx_lm.models.llama as llama
import numpy as np

from tools.demo_model.reader import Floats, Reader
from tools.demo_model.world import World

Head = tuple[int, int]  # layer, query head


def repeated_words(
    world: World, reader: Reader, rng: random.Random, count: int, length: int = 20
) -> mx.array:
    """`<bos>` and random words twice, `[count, 1 + 2 * length]`."""
    rows = []
    for _ in range(count):
        words = " ".join(rng.sample(world.content_words(), length))
        rows.append(reader.tokenizer.encode(f"{words} {words}"))
    return mx.array(rows)


def copy_accuracy(reader: Reader, tokens: mx.array, repeat: int = 2) -> float:
    """Share of words predicted in the first or second repeat, from its second word on."""
    length = (tokens.shape[1] - 1) // 2
    start = (repeat - 1) * length + 1  # the repeat's first word, which nothing foretells
    guesses = mx.argmax(reader.model(tokens), axis=-1)
    right = guesses[:, start : start + length - 1] == tokens[:, start + 1 : start + length]
    return float(np.asarray(right).mean())


def ablated_accuracy(reader: Reader, tokens: mx.array, heads: Sequence[Head]) -> float:
    """Second-repeat accuracy with the `z` of some heads set to zero."""
    with without(reader, heads):
        return copy_accuracy(reader, tokens)


@contextmanager
def without(reader: Reader, heads: Sequence[Head]) -> Iterator[None]:
    """Zero the columns of the output projection that read these heads: z = 0 by another name."""
    kept: list[tuple[Any, mx.array]] = []
    try:
        for layer, head in heads:
            attention = reader.layers[layer].self_attn
            weight = attention.o_proj.weight
            kept.append((attention.o_proj, weight))
            width = weight.shape[1] // attention.n_heads
            of_head = mx.arange(weight.shape[1]) // width == head
            attention.o_proj.weight = mx.where(of_head, 0.0, weight)
        yield
    finally:
        for projection, weight in reversed(kept):
            projection.weight = weight


def patterns(reader: Reader, tokens: mx.array) -> Floats:
    """Attention patterns, `[layer, batch, query head, query, key]`."""
    seen: list[mx.array] = []
    original = llama.scaled_dot_product_attention

    def watch(q: mx.array, k: mx.array, v: mx.array, **rest: Any) -> mx.array:
        keys = mx.repeat(k, q.shape[1] // k.shape[1], axis=1)
        scores = q @ keys.swapaxes(-1, -2) * rest["scale"]
        causal = mx.tril(mx.ones(scores.shape[-2:], dtype=mx.bool_))
        seen.append(mx.softmax(mx.where(causal, scores, -1e9), axis=-1))
        out: mx.array = original(q, k, v, **rest)
        return out

    llama.scaled_dot_product_attention = watch
    try:
        mx.eval(reader.model(tokens))
    finally:
        llama.scaled_dot_product_attention = original
    return np.stack([np.asarray(pattern) for pattern in seen])


def head_scores(found: Floats) -> dict[str, Floats]:
    """Mean attention `[layer, head]` in the second repeat, by what a head of that kind attends to.

    `previous`: the token before. `induction`: the token after the current one's last occurrence.
    """
    length = (found.shape[-1] - 1) // 2
    queries = np.arange(length + 1, 2 * length + 1)
    return {
        "previous": found[..., queries, queries - 1].mean(axis=(1, 3)),
        "induction": found[..., queries, queries - length + 1].mean(axis=(1, 3)),
    }


def ablations(reader: Reader, tokens: mx.array) -> dict[Head, float]:
    """What zero-ablating each head alone costs in second-repeat accuracy."""
    whole = copy_accuracy(reader, tokens)
    heads = reader.layers[0].self_attn.n_heads
    return {
        (layer, head): whole - ablated_accuracy(reader, tokens, [(layer, head)])
        for layer in range(len(reader.layers))
        for head in range(heads)
    }
