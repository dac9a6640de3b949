"""What a prediction is worth: the numbers by which causal experiments judge logits.

All in float32: half-precision logits tie, and their log-sum-exp loses what the tail holds.
"""

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.sums import log_softmax, total


def log_probabilities(logits: mx.array) -> mx.array:
    """Natural-log probabilities along the last axis, float32, of the shape of the logits.

    Summed as `mlux.engine.sums` does it, to 1e-6 whatever the size of the vocabulary.

    Example:
        >>> float(mx.exp(log_probabilities(mx.zeros((1, 4))))[0, 0])
        0.25
    """
    return log_softmax(logits)


def logit_diff(logits: mx.array, answer: mx.array | int, wrong_answer: mx.array | int) -> mx.array:
    """logit(answer) - logit(wrong answer), [rows].

    Args:
        logits: [rows, vocab_size].
        answer: Token id, one for all rows or [rows].
        wrong_answer: Likewise.

    Example:
        >>> logit_diff(mx.array([[1.0, 3.0]]), 1, 0).tolist()
        [2.0]
    """
    return _at(logits, answer) - _at(logits, wrong_answer)


def answer_logprob(logits: mx.array, answer: mx.array | int) -> mx.array:
    """Natural-log probability of the answer, [rows].

    Example:
        >>> round(float(answer_logprob(mx.zeros((1, 4)), 2)[0]), 4)
        -1.3863
    """
    return _at(log_probabilities(logits), answer)


def answer_rank(logits: mx.array, answer: mx.array | int) -> mx.array:
    """Other tokens that are at least as probable, [rows]; ties count against the answer.

    Example:
        >>> answer_rank(mx.array([[1.0, 3.0, 3.0]]), 1).tolist()
        [1]
    """
    logits = logits.astype(mx.float32)
    return mx.sum(logits >= _at(logits, answer)[:, None], axis=-1) - 1


def kl_divergence(reference: mx.array, logits: mx.array) -> mx.array:
    """KL(reference ‖ logits) of two predictions in nats, [rows]; never below 0.

    Args:
        reference: [rows, vocab_size] logits, or [vocab_size] for all rows.
        logits: [rows, vocab_size].

    Example:
        >>> kl_divergence(mx.zeros((2,)), mx.zeros((1, 2))).tolist()
        [0.0]
    """
    return divergence(log_probabilities(reference), log_probabilities(logits))


def divergence(log_p: mx.array, log_q: mx.array) -> mx.array:
    """KL(p ‖ q) of log-probabilities along the last axis, in nats, [...]; never below 0.

    Example:
        >>> log_p = log_probabilities(mx.zeros((2,)))
        >>> divergence(log_p, log_p).item()
        0.0
    """
    return mx.maximum(total(mx.exp(log_p) * (log_p - log_q)), 0.0)


def entropy(log_p: mx.array) -> mx.array:
    """Entropy of log-probabilities along the last axis, in nats, [...].

    Example:
        >>> entropy(log_probabilities(mx.zeros((1,)))).item()
        -0.0
    """
    return -total(mx.exp(log_p) * log_p)


def scored_logits(model: HookedModel, tokens: mx.array, positions: mx.array) -> mx.array:
    """Logits [batch, vocab_size] of an unedited pass at one position of each row.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> batch = model.to_batch("mary lives in")
        >>> scored_logits(model, batch.tokens, batch.last).shape
        (1, 1466)
    """
    logits, _ = model.run_with_cache(tokens, hooks=(), positions=positions)
    return logits[:, 0]


def _at(values: mx.array, token: mx.array | int) -> mx.array:
    """[rows, vocab_size] at one token of each row, [rows] float32."""
    ids = mx.broadcast_to(mx.array(token), (values.shape[0],))
    return mx.take_along_axis(values.astype(mx.float32), ids[:, None], axis=-1)[:, 0]
