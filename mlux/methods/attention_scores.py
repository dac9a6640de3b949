"""What heads attend to: spread, reach, and the share on a few telling places.

For every head, averages over a prompt's query positions of its attention weights a(i, j), j ≤ i:

    entropy         −Σ_j a(i, j) log a(i, j)
    distance        Σ_j a(i, j) (i − j)
    first token     a(i, 0), which is the BOS token where the tokenizer begins with one
    previous token  a(i, i − 1)
    repeated token  Σ a(i, j) over earlier j that hold the token at i
    its successor   Σ a(i, j + 1) over those j: what an induction head looks at

The first position attends to itself alone and is left out. Previous-token and repeated-token heads
after Elhage et al. (2021), "A Mathematical Framework for Transformer Circuits", successors after
Olsson et al. (2022), "In-context Learning and Induction Heads"; entropy and distance after Vig &
Belinkov (2019), "Analyzing the Structure of Attention in a Transformer Language Model".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlux.engine import HookedModel, HookWrapper, sites
from mlux.engine.sums import total
from mlux.errors import PromptError

Kept = dict[str, mx.array]


@dataclass(frozen=True, kw_only=True)
class AttentionScores:
    """Scores of every head of one layer, float32.

    Attributes:
        layer: The block.
        entropy: [batch, n_heads], nats; with sinks, of what goes to tokens.
        distance: [batch, n_heads], tokens.
        first_token: [batch, n_heads], in 0 … 1, as all below.
        previous_token: [batch, n_heads].
        repeated_token: [batch, n_heads], over the positions whose token occurred before; nan for
            a row without any.
        successor: [batch, n_heads], likewise.
        pattern: [batch, n_heads, seq, seq], if it was asked for.
    """

    layer: int
    entropy: mx.array
    distance: mx.array
    first_token: mx.array
    previous_token: mx.array
    repeated_token: mx.array
    successor: mx.array
    pattern: mx.array | None = None


def attention_scores(
    model: HookedModel, tokens: mx.array, *, patterns: bool = False
) -> Iterator[AttentionScores]:
    """Scores of every head, layer by layer; one layer's patterns are in memory at a time.

    Args:
        model: The model.
        tokens: [batch, seq] token ids, no padding, at least two a row.
        patterns: Whether to keep the patterns too.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> scores = list(attention_scores(model, model.to_batch("mary lives in").tokens))
        >>> len(scores), scores[1].previous_token.shape
        (6, (1, 4))

    Raises:
        PromptError: If a row has a single token, which can attend to nothing else.
    """
    if tokens.shape[1] < 2:
        raise PromptError("Attention is scored from the second token on; this prompt has one.")
    of_layer: dict[int, AttentionScores] = {}
    masks = _masks(tokens)

    def score(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> None:
        assert wrapper.layer is not None
        pattern = output.astype(mx.float32)
        found = _scored(pattern, masks)
        kept = pattern if patterns else None
        # Evaluated at once, so that the pattern can be freed before the next layer's is made.
        mx.eval(found, *[kept] * patterns)
        of_layer[wrapper.layer] = AttentionScores(layer=wrapper.layer, pattern=kept, **found)

    attending = [layer for layer, block in enumerate(model.anatomy.blocks) if block.n_heads]
    model.run_with_hooks(
        tokens,
        hooks=[(sites.tap(layer, "pattern"), score) for layer in attending],
        positions=mx.zeros((tokens.shape[0],), dtype=mx.int32),
    )
    yield from (of_layer[layer] for layer in attending)


def _masks(tokens: mx.array) -> Kept:
    """Which keys each query is asked about, [batch, 1, seq, seq], and how far away they are."""
    seq = tokens.shape[1]
    places = mx.arange(seq)
    distance = places[:, None] - places[None]
    same = (tokens[:, :, None] == tokens[:, None]) & (distance > 0)  # [batch, query, key]
    after = mx.concatenate([mx.zeros_like(same[..., :1]), same[..., :-1]], axis=-1)
    return {
        "distance": mx.maximum(distance, 0)[None, None].astype(mx.float32),
        "first_token": mx.broadcast_to(places == 0, (1, 1, seq, seq)),
        "previous_token": (distance == 1)[None, None],
        "repeated_token": same[:, None],
        "successor": after[:, None],
        "repeats": mx.any(same, axis=-1)[:, None],  # [batch, 1, query]
    }


def _scored(pattern: mx.array, masks: Mapping[str, mx.array]) -> Kept:
    """The scores of a pattern [batch, n_heads, seq, seq] by name, [batch, n_heads] each."""
    logs = mx.log(mx.maximum(pattern, 1e-30))
    found = {
        "entropy": _mean(-total(pattern * logs)),
        "distance": _mean(total(pattern * masks["distance"])),
    }
    for name in ("first_token", "previous_token"):
        found[name] = _mean(total(pattern * masks[name]))
    repeats = masks["repeats"].astype(mx.float32)
    for name in ("repeated_token", "successor"):
        on_it = total(pattern * masks[name]) * repeats
        found[name] = total(on_it) / total(repeats)
    return found


def _mean(of_queries: mx.array) -> mx.array:
    """Over the queries from the second on: [batch, n_heads, seq] → [batch, n_heads]."""
    return total(of_queries[..., 1:]) / (of_queries.shape[-1] - 1)
