"""The few modules whose attention does not go through MLX's own function.

Each row maps a class, by its full name, to an equivalent call that goes through `dispatch`. A row
is used only while a pass taps attention; it computes what the class computes, bit for bit.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlux.engine.attention import AttentionCall, dispatch


def _gemma2_scores_and_values(module: Any, call: AttentionCall) -> mx.array:
    """Gemma 2's attention as the model computes it: grouped, soft-capped, in its own dtype."""
    batch, n_heads, length, d_head = call.q.shape
    n_groups = call.k.shape[1]
    repeats = n_heads // n_groups
    q, k, v = call.q * module.scale, call.k, call.v
    if repeats > 1:
        q = q.reshape(batch, n_groups, repeats, length, d_head)
        k, v = mx.expand_dims(k, 2), mx.expand_dims(v, 2)
    scores = q @ k.swapaxes(-1, -2)
    scores = mx.tanh(scores / module.attn_logit_softcapping)
    scores *= module.attn_logit_softcapping
    if isinstance(call.mask, mx.array):
        if call.mask.dtype == mx.bool_:
            lowest = mx.array(mx.finfo(scores.dtype).min, scores.dtype)
            scores = mx.where(call.mask, scores, lowest)
        else:
            scores = scores + call.mask
    z = mx.softmax(scores, precise=True, axis=-1) @ v
    return z.reshape(batch, n_heads, length, -1) if repeats > 1 else z


def _gemma2_attention(
    module: Any, x: mx.array, mask: mx.array | None = None, cache: Any = None
) -> mx.array:
    batch, length, _ = x.shape

    def heads(projected: mx.array, count: int) -> mx.array:
        return projected.reshape(batch, length, count, -1).transpose(0, 2, 1, 3)

    q = heads(module.q_proj(x), module.n_heads)
    k = heads(module.k_proj(x), module.n_kv_heads)
    v = heads(module.v_proj(x), module.n_kv_heads)
    if cache is None:
        q, k = module.rope(q), module.rope(k)
    else:
        q, k = module.rope(q, offset=cache.offset), module.rope(k, offset=cache.offset)
        k, v = cache.update_and_fetch(k, v)
    z = dispatch(
        AttentionCall(
            q=q,
            k=k,
            v=v,
            scale=module.scale,
            mask=mask,
            sinks=None,
            softcap=module.attn_logit_softcapping,
            fused=lambda call: _gemma2_scores_and_values(module, call),
        )
    )
    joined: mx.array = module.o_proj(z.transpose(0, 2, 1, 3).reshape(batch, length, -1))
    return joined


OWN_SOFTMAX: dict[str, Callable[..., mx.array]] = {
    "mlx_lm.models.gemma2.Attention": _gemma2_attention,
}


def tappable_call(module: Module) -> Callable[..., mx.array] | None:
    """The equivalent call of a module that computes its own softmax; None for all others."""
    return OWN_SOFTMAX.get(f"{type(module).__module__}.{type(module).__qualname__}")
