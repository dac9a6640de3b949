"""Where things are in a model, learned from one traced forward pass instead of a list of families.

A block adds to the residual stream, so its output minus its input is a sum of outputs of its
children. Solving that sum by least squares says which children are added and with which factor:
the attention and the MLP themselves (Llama), the norms behind them (Gemma 2, OLMo 2), both from
one input (Cohere), each times a constant (Granite). The joining of the heads is the linear map
whose input is z with its heads side by side.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module

from mlux.engine.arrays import to_numpy
from mlux.engine.trace import ModuleCall, trace
from mlux.errors import ModelError

TRACE_LENGTH = 9
"""Tokens in the traced pass: enough equations for the least squares, cheap on any model."""

SMALLEST_FACTOR = 0.01
"""Children with a smaller factor are not added: half-precision noise stays well below it."""

TOLERANCE = 0.02
"""How much of a block's change may stay unexplained: half-precision rounding."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """Something that a block adds to the residual stream: factor × output of a module."""

    path: str
    factor: float


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block of a model.

    Attributes:
        path: The block's own path.
        mixer: The path of the module in which its attention happens; None without attention.
        attn_out: What the mixer adds to the residual stream; None if it cannot be told apart.
        mlp_out: What the MLP adds to the residual stream; None if it cannot be told apart.
        o_proj: The linear map that joins the heads; None without one.
        n_heads: Query heads of its attention; 0 without attention.
        n_kv_heads: Key-value heads of its attention; 0 without attention.
        d_head: Width of a head's z; 0 without attention.
    """

    path: str
    mixer: str | None
    attn_out: Term | None
    mlp_out: Term | None
    o_proj: str | None
    n_heads: int
    n_kv_heads: int
    d_head: int


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """The canonical places of a model.

    Attributes:
        embed_tokens: The path of the token embedding.
        norm: The path of the final norm; None without one.
        blocks: The blocks in order.
        d_model: Width of the residual stream.
    """

    embed_tokens: str
    norm: str | None
    blocks: tuple[Block, ...]
    d_model: int

    @property
    def n_heads(self) -> int:
        """Query heads of the block that has most."""
        return max(block.n_heads for block in self.blocks)


def learn(model: Module, vocab_size: int) -> Anatomy:
    """The anatomy of a model, from one forward pass on a few tokens.

    Raises:
        ModelError: If the model has no blocks, or its blocks did not run.
    """
    # Spread over the vocabulary, so that no two positions look alike to the least squares.
    tokens = mx.arange(1, TRACE_LENGTH + 1)[None] * max(1, vocab_size // (TRACE_LENGTH + 2))
    root = trace(model, tokens)
    calls = root.descendants()
    block_ids = {id(block) for block in model.layers}
    blocks = [call for call in calls if id(call.module) in block_ids]
    if len(blocks) != len(block_ids):
        raise ModelError(
            f"Cannot learn the anatomy of this {type(model).__module__}: "
            f"{len(block_ids)} blocks, of which {len(blocks)} ran once in a forward pass."
        )
    first, last = blocks[0], blocks[-1]
    before = calls[: calls.index(first)]
    after = [call for call in calls[calls.index(last) :] if call.given is first_output(last)]
    embed = next((call for call in before if _takes_tokens(call)), None)
    if embed is None or first.given is None:
        raise ModelError("Cannot learn the anatomy of this model: no token embedding ran.")
    return Anatomy(
        embed_tokens=embed.path,
        norm=after[0].path if after else None,
        blocks=tuple(_block(call) for call in blocks),
        d_model=first.given.shape[-1],
    )


def first_output(call: ModuleCall) -> mx.array | None:
    """The array object that a call returned."""
    output = call.output
    return output if isinstance(output, mx.array) else output[0]


def _takes_tokens(call: ModuleCall) -> bool:
    return (
        not call.children
        and call.given is not None
        and call.given.ndim == 2
        and mx.issubdtype(call.given.dtype, mx.integer)
    )


def _block(call: ModuleCall) -> Block:
    mixer = _mixer(call)
    terms = _added(call)
    attn_out = _term_of(mixer, terms) if mixer else None
    others = [term for term in terms if term is not attn_out]
    attention = mixer.attention_calls() if mixer else []
    heads, z = attention[0] if attention else (None, None)
    return Block(
        path=call.path,
        mixer=mixer.path if mixer else None,
        attn_out=_as_term(attn_out),
        # Several modules added side by side (experts and a shared expert) are not one site yet.
        mlp_out=_as_term(others[0]) if len(others) == 1 else None,
        o_proj=_joining(mixer, z) if mixer and z is not None else None,
        n_heads=heads.n_heads if heads else 0,
        n_kv_heads=heads.k.shape[1] if heads else 0,
        d_head=z.shape[-1] if z is not None else 0,
    )


def _mixer(block: ModuleCall) -> ModuleCall | None:
    """The child in which attention happened."""
    return next((child for child in block.children if child.attention_calls()), None)


Added = tuple[ModuleCall, float]


def _added(block: ModuleCall) -> list[Added]:
    """The children whose outputs sum to the block's output minus its input, with their factors."""
    if block.value is None or block.given_value is None:
        return []
    candidates = [
        child
        for child in block.children
        if child.value is not None and child.value.shape == block.value.shape
    ]
    change = to_numpy(block.value).ravel() - to_numpy(block.given_value).ravel()
    columns = [to_numpy(child.value).ravel() for child in candidates if child.value is not None]
    if not columns:
        return []
    factors = np.linalg.lstsq(np.stack(columns, axis=1), change, rcond=None)[0]
    kept = [i for i, factor in enumerate(factors) if abs(factor) > SMALLEST_FACTOR]
    matrix = np.stack([columns[i] for i in kept], axis=1) if kept else np.zeros((len(change), 1))
    refit, *_ = np.linalg.lstsq(matrix, change, rcond=None)
    unexplained = np.linalg.norm(matrix @ refit - change)
    if unexplained > TOLERANCE * np.linalg.norm(change):
        return []
    return [(candidates[i], _rounded(factor)) for i, factor in zip(kept, refit, strict=False)]


def _rounded(factor: float) -> float:
    """1.0 where the factor is 1 up to rounding, which it nearly always is."""
    return 1.0 if abs(factor - 1.0) < TOLERANCE / 2 else float(factor)


def _term_of(mixer: ModuleCall, terms: list[Added]) -> Added | None:
    """The term that carries the mixer's output: itself, or the norm that was given it."""
    produced = [mixer.output, *(mixer.output if isinstance(mixer.output, tuple) else ())]
    return next(
        (
            term
            for term in terms
            if term[0] is mixer or any(term[0].given is array for array in produced)
        ),
        None,
    )


def _as_term(added: Added | None) -> Term | None:
    return Term(path=added[0].path, factor=added[1]) if added else None


def _joining(mixer: ModuleCall, z: mx.array) -> str | None:
    """The linear map whose input is z, [batch, n_heads, seq, d_head], with heads side by side."""
    batch, _, length, _ = z.shape
    joined = z.transpose(0, 2, 1, 3).reshape(batch, length, -1)
    for call in mixer.descendants():
        given = call.given_value
        if given is not None and given.shape == joined.shape and mx.array_equal(given, joined):
            return call.path
    return None
