"""Sums over a long axis, such as a vocabulary or the keys of a long context, in float32.

On a CPU MLX adds one number to the next, and so do its softmax and log-sum-exp: over 49,152 tokens
the probabilities of a real model sum to 1.000145, and next to a probability of almost 1 the tail is
rounded away. Here an axis is folded 32 times by adding its pieces, and what is left again, so that
no number meets more than some hundred additions, in any vocabulary.
"""

import mlx.core as mx

ROWS = 32
"""The pieces of an axis that are added at once."""


def total(values: mx.array) -> mx.array:
    """The sum along the last axis, float32, [..., n] → [...].

    Example:
        >>> total(mx.ones((2, 49_153))).tolist()
        [49153.0, 49153.0]
    """
    values = values.astype(mx.float32)
    while (size := values.shape[-1]) > ROWS:
        width = size // ROWS
        rows = values[..., : ROWS * width].reshape(*values.shape[:-1], ROWS, width)
        rest = values[..., ROWS * width :]
        values = mx.concatenate([mx.sum(rows, axis=-2), rest], axis=-1)
    return mx.sum(values, axis=-1)


def log_softmax(values: mx.array) -> mx.array:
    """Natural-log probabilities along the last axis, float32, of the shape of the values.

    Shifted by the largest first: next to a logit of 20, a log-probability of -0.0003 would be
    rounded away.

    Example:
        >>> log_softmax(mx.zeros((2,))).tolist() == [-0.6931471824645996] * 2
        True
    """
    shifted, _ = _shifted(values)
    return shifted - mx.log(total(mx.exp(shifted)))[..., None]


def log_sum_exp(values: mx.array) -> mx.array:
    """Log Σ exp along the last axis, float32, [..., n] → [...]; -inf where all are.

    Example:
        >>> log_sum_exp(mx.array([0.0, -mx.inf])).item()
        0.0
    """
    shifted, top = _shifted(values)
    return mx.log(total(mx.exp(shifted))) + top[..., 0]


def softmax(values: mx.array) -> mx.array:
    """Probabilities along the last axis, float32, of the shape of the values.

    Example:
        >>> softmax(mx.zeros((2,))).tolist()
        [0.5, 0.5]
    """
    weights = mx.exp(_shifted(values)[0])
    return weights / total(weights)[..., None]


def _shifted(values: mx.array) -> tuple[mx.array, mx.array]:
    """Less the largest of each row, and that, [..., 1]; a row of -inf is left as it is."""
    values = values.astype(mx.float32)
    top = mx.stop_gradient(mx.max(values, axis=-1, keepdims=True))
    top = mx.where(top == -mx.inf, 0.0, top)
    return values - top, top
