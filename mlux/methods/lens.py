"""The logit lens: what the model would predict if it stopped after a block.

Every layer's residual stream goes through the model's own head (final norm, unembedding, soft-cap,
scale), so the lens at the last layer is the model's prediction itself. One forward pass serves all
layers. What one block's attention or MLP adds may be read alone in the same way: it goes through
the final norm by itself, so the norm's scale is its own, as if it were the whole residual stream.
Source: nostalgebraist (2020), "interpreting GPT: the logit lens".
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import mlx.core as mx

from mlux.engine import HookedModel, sites
from mlux.engine.batching import TokenBatch
from mlux.errors import ModelError
from mlux.methods.scores import divergence, entropy, log_probabilities
from mlux.methods.sweeps import layers_with, path_of

Stream = Literal["resid_post", "attn_out", "mlp_out"]
STREAMS: tuple[Stream, ...] = get_args(Stream)

Translate = Callable[[int, mx.array], mx.array]
"""fn(layer, resid) → what the head reads instead, of the same shape and dtype."""


@dataclass(frozen=True, kw_only=True)
class LensReadout:
    """What the lens shows after one block, for each row and chosen position.

    Attributes:
        layer: The block.
        top_ids: [batch, n_positions, top_k] token ids, most probable first.
        top_logprobs: [batch, n_positions, top_k], natural log.
        entropy: [batch, n_positions], nats.
        kl_to_final: [batch, n_positions], KL(final ‖ this layer) in nats; 0 at the last layer.
        answer_probability: [batch, n_positions].
        answer_rank: [batch, n_positions], 0 where the answer is on top; ties count against it, so
            that a model that prefers nothing ranks no answer first.
    """

    layer: int
    top_ids: mx.array
    top_logprobs: mx.array
    entropy: mx.array
    kl_to_final: mx.array
    answer_probability: mx.array
    answer_rank: mx.array


def logit_lens(
    model: HookedModel,
    batch: TokenBatch,
    *,
    answers: Sequence[int],
    positions: mx.array,
    top_k: int,
    stream: Stream = "resid_post",
    translate: Translate | None = None,
) -> Iterator[LensReadout]:
    """The lens after every block; a layer's logits are gone before the next layer's are made.

    Args:
        model: The model.
        batch: The prompts.
        answers: The answer's token id for each row.
        positions: [batch, n_positions], the positions to read in each row.
        top_k: How many tokens to keep.
        stream: The residual stream after each block, or what its attention or its MLP adds.
        translate: What to do to the residual stream before the head reads it, as a tuned lens does;
            the last layer's is read as it is.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> batch = model.to_batch("the capital of france is")
        >>> paris = model.tokenize("paris")[-1]
        >>> readouts = logit_lens(
        ...     model, batch, answers=[paris], positions=batch.last[:, None], top_k=1
        ... )
        >>> [int(readout.answer_rank[0, 0]) for readout in readouts][-1]
        0

    Raises:
        ModelError: If a part's output is not what the model's head reads.
    """
    if stream != "resid_post" and model.anatomy.stream_axis is not None:
        raise ModelError(
            f"No lens on {stream}: this model's head reads several residual streams, of which a "
            "block's attention or MLP is only one."
        )
    paths = {layer: path_of(stream, layer) for layer in layers_with(model, stream)}
    last = len(model.layers) - 1 if stream == "resid_post" else None
    yield from _lens(model, batch, paths, last, answers, positions, top_k, translate)


def depth_lens(
    model: HookedModel, batch: TokenBatch, *, answers: Sequence[int], positions: mx.array
) -> Iterator[LensReadout]:
    """The lens by depth: before the first block, and after one, two, … all of them.

    Args:
        model: The model.
        batch: The prompts.
        answers: The answer's token id for each row.
        positions: [batch, n_positions], the positions to read in each row.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> batch = model.to_batch("the capital of france is")
        >>> readouts = depth_lens(model, batch, answers=[7], positions=batch.last[:, None])
        >>> [readout.layer for readout in readouts]
        [0, 1, 2, 3, 4, 5, 6]

    Yields:
        n_layers + 1 readouts, whose `layer` is the number of blocks passed.
    """
    n_layers = len(model.layers)
    paths = {0: sites.resid_pre(0)}
    paths |= {layer + 1: sites.resid_post(layer) for layer in range(n_layers)}
    yield from _lens(model, batch, paths, n_layers, answers, positions, 1, None)


def _lens(
    model: HookedModel,
    batch: TokenBatch,
    paths: Mapping[int, str],
    last: int | None,
    answers: Sequence[int],
    positions: mx.array,
    top_k: int,
    translate: Translate | None,
) -> Iterator[LensReadout]:
    """What the head says of each path; of `last`, what the model says itself."""
    logits, cache = model.run_with_cache(batch.tokens, hooks=paths.values())
    final = log_probabilities(_at(logits, positions))
    answer_ids = mx.array(list(answers))[:, None, None]  # [batch, 1, 1]
    top_k = min(top_k, logits.shape[-1])
    for layer, path in paths.items():
        if layer == last:
            # The model's own logits; computing them again could only round.
            logprobs = final
        else:
            seen = _at(cache[path], positions)
            read = seen if translate is None else translate(layer, seen)
            logprobs = log_probabilities(model.unembed(read))
        readout = _read(layer, logprobs, final, answer_ids, top_k)
        mx.eval(list(vars(readout).values())[1:])
        yield readout


def _at(array: mx.array, positions: mx.array) -> mx.array:
    """[batch, seq, d] at [batch, n_positions] → [batch, n_positions, d]."""
    return mx.take_along_axis(array, positions[..., None], axis=1)


def _read(
    layer: int, logprobs: mx.array, final: mx.array, answer_ids: mx.array, top_k: int
) -> LensReadout:
    answer = mx.take_along_axis(
        logprobs, mx.broadcast_to(answer_ids, (*logprobs.shape[:-1], 1)), axis=-1
    )
    top_ids = _top(logprobs, top_k)
    return LensReadout(
        layer=layer,
        top_ids=top_ids,
        top_logprobs=mx.take_along_axis(logprobs, top_ids, axis=-1),
        entropy=entropy(logprobs),
        kl_to_final=divergence(final, logprobs),
        answer_probability=mx.exp(answer[..., 0]),
        answer_rank=mx.sum(logprobs >= answer, axis=-1) - 1,
    )


def _top(logprobs: mx.array, top_k: int) -> mx.array:
    """The ids of the top_k entries along the last axis, largest first."""
    ids = mx.argpartition(-logprobs, kth=top_k - 1, axis=-1)[..., :top_k]
    order = mx.argsort(-mx.take_along_axis(logprobs, ids, axis=-1), axis=-1)
    return mx.take_along_axis(ids, order, axis=-1)
