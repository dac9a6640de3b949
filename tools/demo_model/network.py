"""The model as plain functions on a dictionary of arrays, for training on packed rows.

Computes what `mlx_lm.models.llama` computes (a test holds the two together). It is written
out because packed rows need a block-diagonal mask, and because MLX's `exp` is slow on x86:
14 ns an element there, which made softmax and SiLU cost more than the matrix products.
"""

import math
from dataclasses import dataclass
from typing import cast

import mlx.core as mx

Params = dict[str, mx.array]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the model, by the field's letters."""

    n_layers: int = 6
    d_model: int = 128
    n_heads: int = 4
    n_kv_heads: int = 2
    d_head: int = 32
    d_mlp: int = 384
    d_vocab: int = 1472
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    context: int = 256


def init_params(shape: Shape, seed: int) -> Params:
    """Draw float32 weights under their Hugging Face names.

    Output projections start at a tenth of the others, so that every block starts close to
    the identity.
    """
    key = mx.random.key(seed)
    params: Params = {}

    def draw(name: str, rows: int, columns: int, scale: float) -> None:
        nonlocal key
        key, sub = mx.random.split(key)
        params[name] = scale * mx.random.normal((rows, columns), key=sub)

    d_query, d_kv = shape.n_heads * shape.d_head, shape.n_kv_heads * shape.d_head
    inward, outward = 0.6, 0.06
    draw("model.embed_tokens.weight", shape.d_vocab, shape.d_model, 0.05)
    for layer in range(shape.n_layers):
        at = f"model.layers.{layer}."
        into, wide = inward / math.sqrt(shape.d_model), outward / math.sqrt(shape.d_mlp)
        draw(at + "self_attn.q_proj.weight", d_query, shape.d_model, into)
        draw(at + "self_attn.k_proj.weight", d_kv, shape.d_model, into)
        draw(at + "self_attn.v_proj.weight", d_kv, shape.d_model, into)
        draw(at + "self_attn.o_proj.weight", shape.d_model, d_query, outward / math.sqrt(d_query))
        draw(at + "mlp.gate_proj.weight", shape.d_mlp, shape.d_model, into)
        draw(at + "mlp.up_proj.weight", shape.d_mlp, shape.d_model, into)
        draw(at + "mlp.down_proj.weight", shape.d_model, shape.d_mlp, wide)
        params[at + "input_layernorm.weight"] = mx.ones((shape.d_model,))
        params[at + "post_attention_layernorm.weight"] = mx.ones((shape.d_model,))
    params["model.norm.weight"] = mx.ones((shape.d_model,))
    return params


def fast_exp(x: mx.array) -> mx.array:
    """Exponential by multiplications alone: (exp(x / 256)) ** 256, right to about 3e-5.

    Nothing here branches, so a compiled kernel of it runs at the speed of memory. Valid for
    |x| below some hundreds, which is why masks below are -100 and not minus infinity.
    """
    r = x * (1 / 256)
    power = 1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120)))))
    for _ in range(8):
        power = power * power
    return power


@mx.custom_function
def softmax(scores: mx.array) -> mx.array:
    """Softmax over the last axis, with the usual short gradient."""
    powers = fast_exp(scores - mx.max(scores, axis=-1, keepdims=True))
    return powers / mx.sum(powers, axis=-1, keepdims=True)


@softmax.vjp
def _softmax_vjp(_: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return output * (cotangent - mx.sum(cotangent * output, axis=-1, keepdims=True))


@mx.custom_function
def silu(x: mx.array) -> mx.array:
    """The activation x * sigmoid(x)."""
    return x / (1 + fast_exp(-x))


@silu.vjp
def _silu_vjp(primal: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
    gate = 1 / (1 + fast_exp(-primal))
    return cotangent * gate * (1 + primal * (1 - gate))


def packed_mask(segments: mx.array) -> mx.array:
    """Additive mask `[batch, 1, 1, seq, seq]`: causal, and within one document only."""
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    causal = mx.tril(mx.ones((length, length), dtype=mx.bool_))
    return mx.where(same & causal, 0.0, -100.0)[:, None, None]


def _attention(params: Params, at: str, x: mx.array, mask: mx.array, shape: Shape) -> mx.array:
    batch, length, _ = x.shape

    def heads(name: str, count: int) -> mx.array:
        out = x @ params[f"{at}self_attn.{name}_proj.weight"].T
        return out.reshape(batch, length, count, shape.d_head).swapaxes(1, 2)

    def rotate(h: mx.array) -> mx.array:
        return mx.fast.rope(
            h, shape.d_head, traditional=False, base=shape.rope_theta, scale=1.0, offset=0
        )

    group = shape.n_heads // shape.n_kv_heads
    q = rotate(heads("q", shape.n_heads)) * shape.d_head**-0.5
    q = q.reshape(batch, shape.n_kv_heads, group, length, shape.d_head)
    k = rotate(heads("k", shape.n_kv_heads))[:, :, None]
    v = heads("v", shape.n_kv_heads)[:, :, None]
    # [batch, kv head, group, query, key]
    pattern = cast(mx.array, softmax(q @ k.swapaxes(-1, -2) + mask))
    z = (pattern @ v).reshape(batch, shape.n_heads, length, shape.d_head)
    z = z.swapaxes(1, 2).reshape(batch, length, shape.n_heads * shape.d_head)
    return z @ params[f"{at}self_attn.o_proj.weight"].T


def final_residual(params: Params, tokens: mx.array, mask: mx.array, shape: Shape) -> mx.array:
    """Residual stream after the last block and the final norm, `[batch, seq, d_model]`."""

    def norm(x: mx.array, name: str) -> mx.array:
        return mx.fast.rms_norm(x, params[name + ".weight"], shape.norm_eps)

    resid = params["model.embed_tokens.weight"][tokens]
    for layer in range(shape.n_layers):
        at = f"model.layers.{layer}."
        x = norm(resid, at + "input_layernorm")
        resid = resid + _attention(params, at, x, mask, shape)
        x = norm(resid, at + "post_attention_layernorm")
        gate = cast(mx.array, silu(x @ params[at + "mlp.gate_proj.weight"].T))
        up = x @ params[at + "mlp.up_proj.weight"].T
        resid = resid + (gate * up) @ params[at + "mlp.down_proj.weight"].T
    return norm(resid, "model.norm")


def weighted_loss(params: Params, batch: dict[str, mx.array], shape: Shape) -> mx.array:
    """Mean cross-entropy of the chosen positions of packed rows, weighted per position.

    `batch` holds `tokens` and `segments` `[rows, seq]`, and for the positions that are
    scored `where` (flat index), `target` and `weight`, each `[scored]`.
    """
    resid = final_residual(params, batch["tokens"], packed_mask(batch["segments"]), shape)
    scored = resid.reshape(-1, shape.d_model)[batch["where"]]
    logits = scored @ params["model.embed_tokens.weight"].T  # [scored, d_vocab]
    return _cross_entropy(logits, batch["target"], batch["weight"])


def _cross_entropy(logits: mx.array, target: mx.array, weight: mx.array) -> mx.array:
    """Weighted mean cross-entropy whose gradient is written out: softmax minus one-hot.

    The returned value is exact; its gradient comes from a linear term that is zero in value,
    so that logits of every scored position are exponentiated once only.
    """
    total = mx.sum(weight)
    powers = mx.stop_gradient(logits - mx.max(logits, axis=-1, keepdims=True))
    right = mx.take_along_axis(powers, target[:, None], axis=-1)[:, 0]
    powers = fast_exp(powers)
    norm = mx.sum(powers, axis=-1)
    loss = mx.sum(weight * (mx.log(norm) - right)) / total
    share = weight / total
    pulled = mx.take_along_axis(logits, target[:, None], axis=-1)[:, 0]
    surrogate = mx.sum(logits * (powers * (share / norm)[:, None])) - mx.sum(share * pulled)
    return mx.stop_gradient(loss - surrogate) + surrogate
