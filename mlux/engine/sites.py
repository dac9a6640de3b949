"""The canonical names of places in a model, the same on every architecture."""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "embed", "resid_pre", "resid_post", "attn_out", "mlp_out", "norm",
    "q", "k", "v", "z", "pattern", "head",
]  # fmt: skip
TAPS: tuple[Kind, ...] = ("q", "k", "v", "z", "pattern", "head")
"""Kinds that are read inside the attention call."""

WORDS: dict[Kind, str] = {
    "resid_pre": "residual stream before it",
    "resid_post": "residual stream after it",
    "attn_out": "attention output",
    "mlp_out": "MLP output",
    **dict.fromkeys(TAPS, "attention heads"),
}
"""What the kinds of a block are called in an error."""

_SUFFIXES: dict[str, Kind] = {
    "": "resid_post",
    ".input": "resid_pre",
    ".self_attn": "attn_out",
    ".mlp": "mlp_out",
    **{f".self_attn.{tap}": tap for tap in TAPS if tap != "head"},
}
_PATTERN = re.compile(r"model\.layers\.(\d+)(?:(\.self_attn\.head)\.(\d+)|(.*))")


@dataclass(frozen=True, kw_only=True)
class Site:
    """A canonical place: its kind, and its layer and head where it has them."""

    kind: Kind
    layer: int | None = None
    head: int | None = None


def parse(path: str) -> Site | None:
    """The canonical site that a path names; None if it is not a canonical name.

    Example:
        >>> parse("model.layers.3.self_attn.head.2")
        Site(kind='head', layer=3, head=2)
    """
    if path == "model.embed_tokens":
        return Site(kind="embed")
    if path == "model.norm":
        return Site(kind="norm")
    match = _PATTERN.fullmatch(path)
    if match is None:
        return None
    layer = int(match[1])
    if match[2]:
        return Site(kind="head", layer=layer, head=int(match[3]))
    kind = _SUFFIXES.get(match[4])
    return None if kind is None else Site(kind=kind, layer=layer)


def resid_pre(layer: int) -> str:
    """The residual stream before a block."""
    return f"model.layers.{layer}.input"


def resid_post(layer: int) -> str:
    """The residual stream after a block."""
    return f"model.layers.{layer}"


def attn_out(layer: int) -> str:
    """What a block's attention (or other token mixer) adds to the residual stream."""
    return f"model.layers.{layer}.self_attn"


def mlp_out(layer: int) -> str:
    """What a block's MLP adds to the residual stream."""
    return f"model.layers.{layer}.mlp"


def tap(layer: int, kind: Kind) -> str:
    """q, k, v, z or pattern of a block's attention."""
    return f"model.layers.{layer}.self_attn.{kind}"


def head(layer: int, index: int) -> str:
    """The z of one head."""
    return f"model.layers.{layer}.self_attn.head.{index}"
