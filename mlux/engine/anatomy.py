"""Where things are in a model: what `learning` found, as values that can be read and compared."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlux.engine import sites


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
        stream: Which argument of the block is the residual stream, by place or name.
        entry: The module that the stream passes before anything is added to it; nearly always None.
        carry: The factor with which the stream itself is kept; nearly always 1.
        mixer: The module that moves information between positions; None without one.
        attn_out: What is added by way of the mixer, in the order of the calls; empty if lacking.
        mlp_out: Everything else that is added, in the order of the calls; empty if lacking.
        o_proj: The map whose input is z, the heads side by side; None without one.
        gated: Whether each entry of z is multiplied by a gate before `o_proj`.
        n_heads: Query heads of its attention; 0 without attention.
        n_kv_heads: Key-value heads of its attention; 0 without attention.
        d_head: Width of a head's z; 0 without attention.
        lacks: The kinds of sites that it lacks, and `sum` where what it adds does not sum to its
            change, each with the reason.
    """

    path: str
    stream: int | str = 0
    entry: str | None = None
    carry: float = 1.0
    mixer: str | None = None
    attn_out: tuple[Term, ...] = ()
    mlp_out: tuple[Term, ...] = ()
    o_proj: str | None = None
    gated: bool = False
    n_heads: int = 0
    n_kv_heads: int = 0
    d_head: int = 0
    lacks: Mapping[str, str] = field(default_factory=dict)

    def terms(self, kind: sites.Kind) -> tuple[Term, ...]:
        """The terms of `attn_out` or `mlp_out`."""
        return self.attn_out if kind == "attn_out" else self.mlp_out


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """The canonical places of a model.

    Attributes:
        embed_tokens: The path of the token embedding.
        norm: The path of the final norm; None without one.
        blocks: The blocks in order.
        d_model: Width of the residual stream; of one stream, where there are several.
        stream_axis: The axis of the several residual streams of AltUp and hyper-connections in
            what a block returns; None where there is one stream.
        lacks: `norm` and `lens` where the model lacks them, with the reason.
    """

    embed_tokens: str
    norm: str | None
    blocks: tuple[Block, ...]
    d_model: int
    stream_axis: int | None = None
    lacks: Mapping[str, str] = field(default_factory=dict)

    def reason(self, layer: int, kind: sites.Kind) -> str | None:
        """Why a block lacks a site; None if it has it."""
        return self.blocks[layer].lacks.get(kind)
