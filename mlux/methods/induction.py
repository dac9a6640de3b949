"""Induction heads: heads that look for what followed the current token before, and copy it.

Measured on random tokens repeated once, where nothing but induction can help. Source: Olsson et
al. (2022), "In-context Learning and Induction Heads" (prefix matching and copying scores); the
previous-token score after Elhage et al. (2021), the duplicate-token score after Wang et al. (2022).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlux.engine import HookedModel, HookWrapper, sites
from mlux.engine.arrays import numbers
from mlux.engine.sums import total
from mlux.methods.frozen_norm import freeze_norm
from mlux.methods.unembedding import SHRUNK, head_of

NORM = "model.norm"


@dataclass(frozen=True, kw_only=True)
class InductionScores:
    """Scores of every head of one layer, [batch, n_heads], in 0 … 1 (copying: −1 … 1).

    Attributes:
        layer: The block.
        prefix_matching: Mean attention from the second repeat to the token that followed the
            current token in the first.
        previous_token: Mean attention to the token just before.
        duplicate_token: Mean attention from the second repeat to the current token in the first.
        copying: 2 r − 1, where r is the share of the head's positive direct push on the logits of
            the sequence's different tokens that falls on the token it attends to most. The push is
            linear, with the final norm's scale held, and less its mean over the vocabulary.
    """

    layer: int
    prefix_matching: mx.array
    previous_token: mx.array
    duplicate_token: mx.array
    copying: mx.array


@dataclass(frozen=True, kw_only=True)
class Induction:
    """What one pass over repeated tokens shows.

    Attributes:
        heads: The scores of each layer with attention.
        accuracy: [batch], see `second_repeat_accuracy`.
    """

    heads: list[InductionScores]
    accuracy: mx.array


def induction_scores(model: HookedModel, tokens: mx.array, *, period: int) -> list[InductionScores]:
    """Scores of every head on sequences whose last 2 · period tokens are a repeated stretch.

    On sequences that do not repeat they show what the same places get anyway.

    Args:
        model: The model.
        tokens: [batch, seq], each row ending in period tokens and the same again.
        period: Length of the repeated stretch.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> tokens = model.to_batch("dog cat horse dog cat horse").tokens
        >>> induction_scores(model, tokens, period=3)[2].prefix_matching.shape
        (1, 4)
    """
    return measure_induction(model, tokens, period=period).heads


def measure_induction(model: HookedModel, tokens: mx.array, *, period: int) -> Induction:
    """The scores of every head, and how well the model itself continues the repetition.

    Args:
        model: The model.
        tokens: As in `induction_scores`.
        period: Length of the repeated stretch.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> tokens = model.to_batch("dog cat horse dog cat horse").tokens
        >>> found = measure_induction(model, tokens, period=3)
        >>> found.accuracy.shape, len(found.heads)
        ((1,), 6)
    """
    attending = [i for i, block in enumerate(model.anatomy.blocks) if block.n_heads]
    last = sites.resid_post(len(model.layers) - 1)
    paths = [sites.tap(layer, "pattern") for layer in attending]
    paths += [sites.resid_pre(layer) for layer in attending]
    paths += [last, *[NORM] * (model.anatomy.norm is not None)]
    final_logits, cache = model.run_with_cache(tokens, hooks=dict.fromkeys(paths))
    push = _push(model, cache, final_logits, period, last)
    scores = []
    for layer in attending:
        pattern = cache[sites.tap(layer, "pattern")]
        layer_scores = InductionScores(
            layer=layer,
            prefix_matching=_attention_at(pattern, offset=period - 1, n_last=period),
            previous_token=_attention_at(pattern, offset=1, n_last=tokens.shape[1] - 1),
            duplicate_token=_attention_at(pattern, offset=period, n_last=period),
            copying=_copying(model, cache, layer, pattern, tokens, period, push),
        )
        mx.eval(list(vars(layer_scores).values())[1:])
        scores.append(layer_scores)
    accuracy = second_repeat_accuracy(final_logits, tokens, period=period)
    return Induction(heads=scores, accuracy=accuracy)


def prefix_matching(model: HookedModel, ids: Sequence[int]) -> dict[tuple[int, int], float]:
    """How much each head attends to what followed earlier occurrences of the current token.

    The prefix-matching score on any prompt: the mean, over the tokens that occurred before, of the
    attention to all positions right after an earlier occurrence.

    Args:
        model: The model.
        ids: The prompt's token ids.

    Returns:
        (layer, head) → 0 … 1; empty if no token of the prompt occurs twice.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> scores = prefix_matching(model, model.tokenize("dog cat horse walk dog cat horse"))
        >>> max(scores, key=scores.get) in {(2, 0), (2, 3)}
        True
    """
    seq = len(ids)
    wanted = [
        [key >= 1 and key <= query and ids[key - 1] == ids[query] for key in range(seq)]
        for query in range(seq)
    ]
    mask = mx.array(wanted)
    queries = sum(map(any, wanted))
    if not queries:
        return {}
    scores: dict[tuple[int, int], float] = {}
    for layer, pattern in model.get_attention_patterns(mx.array([list(ids)])).items():
        of_heads = mx.sum(mx.where(mask, pattern[0], 0.0), axis=(1, 2)) / queries
        scores |= {(layer, head): value for head, value in enumerate(numbers(of_heads))}
    return scores


def second_repeat_accuracy(logits: mx.array, tokens: mx.array, *, period: int) -> mx.array:
    """How often the next token is predicted within the second repeat, [batch], in 0 … 1.

    Args:
        logits: [batch, seq, vocab_size].
        tokens: [batch, seq].
        period: Length of the repeated stretch.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> tokens = model.to_batch("dog cat horse walk dog cat horse walk").tokens
        >>> round(float(second_repeat_accuracy(model.forward(tokens), tokens, period=4)[0]), 2)
        0.67
    """
    predicted = mx.argmax(logits[:, -period:-1], axis=-1)
    return mx.mean((predicted == tokens[:, -period + 1 :]).astype(mx.float32), axis=-1)


def _attention_at(pattern: mx.array, *, offset: int, n_last: int) -> mx.array:
    """Mean attention from the last queries to the key `offset` before each, [batch, n_heads]."""
    seq = pattern.shape[-1]
    queries = mx.arange(seq - n_last, seq)
    keys = (queries - offset)[None, None, :, None]
    rows = pattern[:, :, seq - n_last :]
    index = mx.broadcast_to(keys, (*rows.shape[:3], 1))
    return mx.mean(mx.take_along_axis(rows, index, axis=-1)[..., 0], axis=-1)


def _copying(
    model: HookedModel,
    cache: Any,
    layer: int,
    pattern: mx.array,
    tokens: mx.array,
    period: int,
    push_of: Callable[[mx.array], mx.array],
) -> mx.array:
    """[batch, n_heads]."""
    n_heads = pattern.shape[1]
    first = _first_occurrences(tokens)[:, None]
    attended = mx.argmax(pattern[:, :, -period:], axis=-1)  # [batch, n_heads, period] positions
    scores = []
    for head in range(n_heads):
        added = _head_contribution(model, tokens, cache[sites.resid_pre(layer)], layer, head)
        push = push_of(added[:, -period:])
        push = push - total(push)[..., None] / push.shape[-1]
        # Every token of the row once: whatever is attended to is among them, so that r is a share.
        raised = mx.where(first, mx.maximum(_at_tokens(push, tokens), 0.0), 0.0)
        source = mx.take_along_axis(tokens, attended[:, head], axis=1)  # [batch, period] ids
        on_source = mx.maximum(mx.take_along_axis(push, source[..., None], axis=-1), 0.0)
        on_all = mx.maximum(mx.sum(raised, axis=(1, 2)), 1e-9)
        scores.append(2 * mx.sum(on_source, axis=(1, 2)) / on_all - 1)
    return mx.stack(scores, axis=1)


def _push(
    model: HookedModel, cache: Any, final_logits: mx.array, period: int, last: str
) -> Callable[[mx.array], mx.array]:
    """What a part of the last residual stream, [batch, period, d_model], adds to each logit.

    Linear: the scale of the final norm is that of the whole stream, and a soft-cap is left out.
    Where the final norm is no RMSNorm or LayerNorm, the logits with the part, less those without.
    """
    resid = cache[last][:, -period:]
    batch, _, width = resid.shape
    norm, path = None, model.anatomy.norm
    if path is not None:
        given, returned = (array.reshape(-1, width) for array in (resid, cache[NORM][:, -period:]))
        norm = freeze_norm(model.layout.modules[path], given, returned)
    if norm is None:
        return lambda part: (
            final_logits[:, -period:].astype(mx.float32)
            - model.unembed(resid - part).astype(mx.float32)
        )
    at_zero = head_of(model, mx.zeros((1, width))).astype(mx.float32)

    def linear(part: mx.array) -> mx.array:
        shrunk = norm.linear(part.reshape(-1, width)) * SHRUNK
        logits = (head_of(model, shrunk).astype(mx.float32) - at_zero) / SHRUNK
        return logits.reshape(batch, period, -1)

    return linear


def _first_occurrences(tokens: mx.array) -> mx.array:
    """Whether a row has this token here for the first time, [batch, seq]."""
    same = tokens[:, :, None] == tokens[:, None, :]
    return mx.logical_not(mx.any(mx.tril(same, k=-1), axis=-1))


def _at_tokens(push: mx.array, tokens: mx.array) -> mx.array:
    """[batch, seq, vocab] at the tokens of each row → [batch, seq, n_tokens]."""
    index = mx.broadcast_to(tokens[:, None, :], (*push.shape[:2], tokens.shape[1]))
    return mx.take_along_axis(push, index, axis=-1)


def _head_contribution(
    model: HookedModel, tokens: mx.array, resid_pre: mx.array, layer: int, head: int
) -> mx.array:
    """What attention adds because of one head: with it, minus without it, [batch, seq, d_model]."""

    def silence(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return mx.zeros_like(output)

    path = sites.attn_out(layer)
    _, whole = model.run_from(layer, resid_pre, captures=[path], tokens=tokens)
    _, without = model.run_from(
        layer,
        resid_pre,
        hooks=[(sites.head(layer, head), silence)],
        captures=[path],
        tokens=tokens,
    )
    return whole[path] - without[path]
