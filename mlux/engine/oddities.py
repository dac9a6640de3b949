"""The few modules whose attention does not go through MLX's own function.

A row is used only while a pass taps attention, and computes what the model computes, bit for bit:
either an equivalent call of a class, by its full name, that goes through `dispatch`, or a `Door`:
a function of a model's file, which is wrapped.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlux.engine.attention import AttentionCall, Door, dispatch, doors


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


def _gear(original: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """Gear's soft-capped attention."""

    def tapped(
        q: mx.array, k: mx.array, v: mx.array, scale: float, softcap: float, mask: Any
    ) -> mx.array:
        return dispatch(
            AttentionCall(
                q=q,
                k=k,
                v=v,
                scale=scale,
                mask=mask,
                sinks=None,
                softcap=softcap,
                fused=lambda call: original(call.q, call.k, call.v, scale, softcap, mask),
            )
        )

    return tapped


def _phi3small(original: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """Phi-3-small's block-sparse attention."""

    def tapped(
        module: Any, q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None
    ) -> mx.array:
        _, dense = module._block_sparse_mask(q.shape[2], k.shape[2])
        # mlx-lm adds its mask to the scores, also where it is a boolean one.
        scores = mx.where(dense.flatten(0, 1), 0.0, -mx.inf)  # [n_heads, query, key]
        scores = scores if mask is None else scores + mask

        def fused(call: AttentionCall) -> mx.array:
            if call.k is not k or call.v is not v:  # edited: no longer grouped by shared heads
                return call.attend(call.pattern())
            return original(module, call.q, k, v, scale=scale, mask=mask)

        return dispatch(
            AttentionCall(
                q=q, k=k, v=v, scale=scale, mask=scores, sinks=None, softcap=None, fused=fused
            )
        )

    return tapped


doors += [
    Door(module="mlx_lm.models.gear", owner="", name="_softcap_attention", tapped=_gear),
    Door(
        module="mlx_lm.models.phi3small",
        owner="Attention",
        name="_block_sparse_attention",
        tapped=_phi3small,
    ),
]


def tappable_call(module: Module) -> Callable[..., mx.array] | None:
    """The equivalent call of a module that computes its own softmax; None for all others."""
    return OWN_SOFTMAX.get(f"{type(module).__module__}.{type(module).__qualname__}")


NEED_A_CACHE = frozenset({"mlx_lm.models.gemma3n.Model"})
"""Models whose blocks share keys and values by way of the cache, and compute others without one."""


def forward_arguments(model: Module) -> dict[str, Any]:
    """What a forward pass over a whole prompt needs besides the tokens."""
    if f"{type(model).__module__}.{type(model).__qualname__}" not in NEED_A_CACHE:
        return {}
    from mlx_lm.models.cache import make_prompt_cache

    return {"cache": make_prompt_cache(model)}
