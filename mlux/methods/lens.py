"""The logit lens: what the model would predict if it stopped after a block.

Every layer's residual stream goes through the model's own head (final norm, unembedding, soft-cap,
scale), so the lens at the last layer is the model's prediction itself. One forward pass serves all
layers. Source: nostalgebraist (2020), "interpreting GPT: the logit lens".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlux.engine import HookedModel, sites
from mlux.engine.batching import TokenBatch
from mlux.methods.scores import log_probabilities


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
) -> Iterator[LensReadout]:
    """The lens after every block; a layer's logits are gone before the next layer's are made.

    Args:
        model: The model.
        batch: The prompts.
        answers: The answer's token id for each row.
        positions: [batch, n_positions], the positions to read in each row.
        top_k: How many tokens to keep.

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
    """
    n_layers = len(model.layers)
    paths = [sites.resid_post(layer) for layer in range(n_layers)]
    logits, cache = model.run_with_cache(batch.tokens, hooks=paths)
    final = log_probabilities(_at(logits, positions))
    answer_ids = mx.array(list(answers))[:, None, None]  # [batch, 1, 1]
    top_k = min(top_k, logits.shape[-1])
    for layer, path in enumerate(paths):
        # The last layer's lens is the model's own logits; computing them again could only round.
        logprobs = (
            final
            if layer == n_layers - 1
            else log_probabilities(model.unembed(_at(cache[path], positions)))
        )
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
        entropy=-mx.sum(mx.exp(logprobs) * logprobs, axis=-1),
        kl_to_final=mx.maximum(mx.sum(mx.exp(final) * (final - logprobs), axis=-1), 0.0),
        answer_probability=mx.exp(answer[..., 0]),
        answer_rank=mx.sum(logprobs >= answer, axis=-1) - 1,
    )


def _top(logprobs: mx.array, top_k: int) -> mx.array:
    """The ids of the top_k entries along the last axis, largest first."""
    ids = mx.argpartition(-logprobs, kth=top_k - 1, axis=-1)[..., :top_k]
    order = mx.argsort(-mx.take_along_axis(logprobs, ids, axis=-1), axis=-1)
    return mx.take_along_axis(ids, order, axis=-1)
