"""Taps on attention: q, k, v, pattern and z where every architecture computes them.

MLX models call one of two functions for softmax attention. While a pass asks for a tap, both are
replaced by versions that ask the pass of the current thread what it wants of this call; when it
wants nothing, and in every other thread, the fused kernel runs untouched. There q, k and v are
past rotary embedding and norms, with the true scale, mask, window and sinks, so patterns are exact
without a line per family. Attention that computes its own softmax (gemma2) is in `oddities`.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import mlx.core as mx
from mlx_lm.models import base

from mlux.engine.sums import softmax


@dataclass(frozen=True, kw_only=True)
class AttentionCall:
    """One call of scaled-dot-product attention.

    Attributes:
        q: [batch, n_heads, query, d_head].
        k: [batch, n_kv_heads, key, d_head].
        v: [batch, n_kv_heads, key, d_value].
        scale: The factor on q·k.
        mask: None, "causal", a boolean array (true: may attend) or an array added to the scores.
        sinks: One extra logit a head in the softmax, or None.
        softcap: The scores are softcap · tanh(scores / softcap), or None.
        fused: Computes z the way that the model does.
        unquantised: Whether keys and values are those that `fused` reads, not dequantised ones.
    """

    q: mx.array
    k: mx.array
    v: mx.array
    scale: float
    mask: mx.array | str | None
    sinks: mx.array | None
    softcap: float | None
    fused: Callable[["AttentionCall"], mx.array]
    unquantised: bool = True

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return self.q.shape[1]

    def per_query_head(self, array: mx.array) -> mx.array:
        """Keys or values with each key-value head repeated for the query heads that share it."""
        repeats = self.n_heads // array.shape[1]
        return mx.repeat(array, repeats, axis=1) if repeats > 1 else array

    def pattern(self) -> mx.array:
        """The attention weights, [batch, n_heads, query, key], float32, rows summing to 1.

        With sinks the rows sum to less than 1: the sink keeps the rest.
        """
        q = self.q.astype(mx.float32) * self.scale
        scores = q @ self.per_query_head(self.k).astype(mx.float32).swapaxes(-1, -2)
        if self.softcap is not None:
            scores = self.softcap * mx.tanh(scores / self.softcap)
        scores = _masked(scores, self.mask)
        if self.sinks is None:
            return softmax(scores)
        sinks = self.sinks.astype(mx.float32).reshape(1, -1, 1, 1)
        column = mx.broadcast_to(sinks, (*scores.shape[:-1], 1))
        return softmax(mx.concatenate([scores, column], axis=-1))[..., :-1]

    def pattern_and_z(self) -> tuple[mx.array, mx.array]:
        """The pattern, and z as the model computes it, bit for bit.

        MLX has no fused kernel on a CPU: it computes scores, softmax and product one after another.
        The same steps written out give the same z and the pattern on the way, for one softmax
        instead of two up to `SHORT` keys.
        """
        plain = self.mask is None or isinstance(self.mask, str) or self.mask.dtype == mx.bool_
        if (
            mx.default_device() != mx.Device(mx.cpu)
            or {self.q.dtype, self.k.dtype, self.v.dtype} != {mx.float32}
            or self.sinks is not None
            or self.softcap is not None
            or not plain
            or not self.unquantised
        ):
            return self.pattern(), self.fused(self)
        batch, n_heads, length, d_head = self.q.shape
        groups = self.k.shape[1]
        q = (mx.array(self.scale, dtype=mx.float32) * self.q).reshape(
            batch, groups, n_heads // groups, length, d_head
        )
        scores = q @ mx.expand_dims(self.k, 2).swapaxes(-1, -2)
        scores = scores.reshape(batch, n_heads, length, -1)
        masked = _masked(scores, self.mask)
        weights = mx.softmax(masked, axis=-1, precise=True)
        grouped = weights.reshape(batch, groups, n_heads // groups, length, -1)
        z = (grouped @ mx.expand_dims(self.v, 2)).reshape(batch, n_heads, length, -1)
        # What is read sums to 1 over long contexts too, where MLX's own softmax does not quite.
        return (weights if weights.shape[-1] <= SHORT else softmax(masked)), z

    def attend(self, pattern: mx.array) -> mx.array:
        """What the heads read: pattern @ v, [batch, n_heads, query, d_value], in the dtype of v."""
        v = self.per_query_head(self.v)
        return (pattern @ v.astype(mx.float32)).astype(v.dtype)


def _masked(scores: mx.array, mask: mx.array | str | None) -> mx.array:
    if mask is None:
        return scores
    if isinstance(mask, str):
        n_query, n_key = scores.shape[-2:]
        mask = mx.arange(n_key - n_query, n_key)[:, None] >= mx.arange(n_key)[None]
    if mask.dtype == mx.bool_:
        return mx.where(mask, scores, mx.array(-mx.inf, dtype=scores.dtype))
    return scores + mask.astype(scores.dtype)


SHORT = 256
"""Keys over which MLX's own softmax still sums to 1 within 1e-6."""


Tap = Callable[[AttentionCall], mx.array]
"""tap(call) → z, having read or edited what it wanted."""


@dataclass(frozen=True, kw_only=True)
class Door:
    """A function of a model's file that computes softmax attention by itself.

    Attributes:
        module: The file's module; untouched while nothing has imported it.
        owner: The class of the function, for a method; empty for a function of the module.
        name: The function's name.
        tapped: tapped(original) is a function that goes through `dispatch`.
    """

    module: str
    owner: str
    name: str
    tapped: Callable[[Any], Any]


doors: list[Door] = []
"""Filled by `oddities`."""

_tap: ContextVar[Tap | None] = ContextVar("mlux_tap", default=None)
_lock = Lock()
_users = 0
_opened: list[tuple[Any, str, Any]] = []
_fused_attention = mx.fast.scaled_dot_product_attention
_quantized_attention = base.quantized_scaled_dot_product_attention


@contextmanager
def tapping(tap: Tap | None) -> Iterator[None]:
    """Runs the body with a tap on every attention call of this thread; None taps nothing."""
    token = _tap.set(tap)
    if tap is not None:
        _install(+1)
    try:
        yield
    finally:
        if tap is not None:
            _install(-1)
        _tap.reset(token)


def _install(change: int) -> None:
    global _users
    with _lock:
        before, _users = _users, _users + change
        if not before:
            _open_doors()
        elif not _users:
            while _opened:
                setattr(*_opened.pop())
        if _users:
            mx.fast.scaled_dot_product_attention = _tapped_fused
            base.quantized_scaled_dot_product_attention = _tapped_quantized
        else:
            mx.fast.scaled_dot_product_attention = _fused_attention
            base.quantized_scaled_dot_product_attention = _quantized_attention


def _open_doors() -> None:
    for door in doors:
        owner = sys.modules.get(door.module)
        if owner is not None:
            owner = getattr(owner, door.owner) if door.owner else owner
            original = getattr(owner, door.name)
            _opened.append((owner, door.name, original))
            setattr(owner, door.name, door.tapped(original))


def dispatch(call: AttentionCall) -> mx.array:
    """The z of an attention call, by way of the tap of this thread if there is one."""
    tap = _tap.get()
    return call.fused(call) if tap is None else tap(call)


def _tapped_fused(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    scale: float,
    mask: Any = None,
    sinks: mx.array | None = None,
    **options: Any,
) -> mx.array:
    def fused(call: AttentionCall) -> mx.array:
        return _fused_attention(
            call.q, call.k, call.v, scale=scale, mask=mask, sinks=sinks, **options
        )

    return dispatch(
        AttentionCall(q=q, k=k, v=v, scale=scale, mask=mask, sinks=sinks, softcap=None, fused=fused)
    )


def _tapped_quantized(
    queries: mx.array,
    q_keys: tuple[mx.array, ...],
    q_values: tuple[mx.array, ...],
    scale: float,
    mask: Any,
    group_size: int = 64,
    bits: int = 8,
) -> mx.array:
    def dequantized(parts: tuple[mx.array, ...]) -> mx.array:
        packed, scales, biases = parts
        return mx.dequantize(packed, scales, biases, group_size=group_size, bits=bits)

    plain = AttentionCall(
        q=queries,
        k=dequantized(q_keys),
        v=dequantized(q_values),
        scale=scale,
        mask=mask,
        sinks=None,
        softcap=None,
        fused=lambda call: call.attend(call.pattern()),
        unquantised=False,
    )

    def fused(call: AttentionCall) -> mx.array:
        # An edited key or value is no longer in the quantised cache, so it needs the plain product.
        if call.k is not plain.k or call.v is not plain.v:
            return plain.fused(call)
        # The kernel multiplies its queries in place.
        z: mx.array = _quantized_attention(
            call.q[...], q_keys, q_values, scale, mask, group_size=group_size, bits=bits
        )
        return z

    return dispatch(replace(plain, fused=fused))
