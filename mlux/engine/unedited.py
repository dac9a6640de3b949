"""What an edit of a pattern leaves alone keeps the model's own result, bit for bit.

The model's attention kernel rounds otherwise than a product of an edited pattern with v. So one
edited head would change, in the last bits, what every other head and row of the batch reads.
"""

import mlx.core as mx


def where_edited(read: mx.array, z: mx.array, *, before: mx.array, after: mx.array) -> mx.array:
    """What the heads read by an edited pattern, and z where a query's weights are what they were.

    Its derivative is that of `read` everywhere: a delta of zero is one to differentiate by.

    Args:
        read: By the edited pattern, [batch, n_heads, query, d_value].
        z: By the model's own, likewise.
        before: The model's own pattern, [batch, n_heads, query, key].
        after: The edited one.
    """
    edited = mx.any(after != before, axis=-1, keepdims=True)
    chosen: mx.array = _chosen(read, mx.stop_gradient(z), edited)  # type: ignore[assignment] # MLX types what it wraps as object
    return chosen


@mx.custom_function
def _chosen(read: mx.array, z: mx.array, edited: mx.array) -> mx.array:
    return mx.where(edited, read, z)


@_chosen.vjp
def _by_what_is_read(
    primals: tuple[mx.array, ...], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, ...]:
    _, z, edited = primals
    return cotangent, mx.zeros_like(z), mx.zeros_like(edited)
