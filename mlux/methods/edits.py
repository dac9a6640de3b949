"""Edits: what a row of a batch replaces in a model, and by what.

An edit names a place (site, layer, head, position) and where its replacement comes from. Many rows,
each with edits of its own, run as one batch: the hooks of `replacing` replace in each row what that
row's edits say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import numpy as np

from mlux.engine import HookedModel, HookWrapper, sites
from mlux.engine.passes import Hook

SiteName = Literal[
    "resid_pre", "resid_post", "attn_out", "mlp_out", "head", "q", "k", "v", "pattern"
]
SITES: tuple[SiteName, ...] = (
    "resid_pre", "resid_post", "attn_out", "mlp_out", "head", "q", "k", "v", "pattern",
)  # fmt: skip
HEAD_SITES: tuple[SiteName, ...] = ("head", "q", "k", "v", "pattern")
"""The sites that a head has one of: its z (`head`), query, key, value and attention pattern."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Replace a site by what a source holds there, or at another layer, head or position.

    Attributes:
        site: What is replaced.
        layer: In which block.
        head: Which head, for the sites of heads; None for all.
        position: At which position; None for all. Of a pattern, the position that attends: its
            weights for all keys.
        source_layer: The block that the replacement comes from; None for the same.
        source_position: The position that it comes from; None for the same. With it, `position`
            is one position.
        source_head: The head that it comes from; None for the same. With it, `head` is one head.
    """

    site: SiteName
    layer: int
    head: int | None = None
    position: int | None = None
    source_layer: int | None = None
    source_position: int | None = None
    source_head: int | None = None

    def __post_init__(self) -> None:
        if self.source_position is not None and self.position is None:
            raise ValueError("source_position needs the one position that it goes to")
        if self.source_head is not None and self.head is None:
            raise ValueError("source_head needs the one head that it goes to")
        if self.head is not None and self.site not in HEAD_SITES:
            raise ValueError(f"{self.site} has no heads")
        if self.site == "pattern" and (self.source_position or 0) > (self.position or 0):
            raise ValueError(
                f"the pattern of position {self.source_position} would let position "
                f"{self.position} look ahead"
            )

    @property
    def path(self) -> str:
        """The hook path of what is replaced."""
        return path_of(self.site, self.layer)

    @property
    def source_path(self) -> str:
        """The path under which a source holds the replacement."""
        layer = self.layer if self.source_layer is None else self.source_layer
        return path_of(self.site, layer)


Row = Edit | tuple[Edit, ...]
"""What one row of a sweep does: one edit, or several at once."""

Source = Mapping[str, mx.array]
"""Path → replacement, of the shape that the path has in the base pass or broadcastable to it."""

Origin = tuple[str, int | None, int | None]
"""The path, head and position of a source that replacements come from; None for their own."""


def path_of(site: SiteName, layer: int) -> str:
    """The hook path of a site; heads are read together.

    Example:
        >>> path_of("head", 2), path_of("k", 0)
        ('model.layers.2.self_attn.z', 'model.layers.0.self_attn.k')
    """
    match site:
        case "head":
            return sites.tap(layer, "z")
        case "q" | "k" | "v" | "pattern":
            return sites.tap(layer, site)
        case "resid_pre":
            return sites.resid_pre(layer)
        case "resid_post":
            return sites.resid_post(layer)
        case "attn_out":
            return sites.attn_out(layer)
        case "mlp_out":
            return sites.mlp_out(layer)


def layers_with(model: HookedModel, site: SiteName) -> list[int]:
    """The layers that have a site; hybrid architectures lack some in some layers.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> layers_with(model, "attn_out")
        [0, 1, 2, 3, 4, 5]
    """
    layers = range(len(model.layers))
    return [layer for layer in layers if model.anatomy.reason(layer, site) is None]


def every_edit(model: HookedModel, site: SiteName, seq: int, *, by_position: bool) -> list[Edit]:
    """One edit a layer, and a head for the sites of heads, and with `by_position` a position.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> len(every_edit(model, "head", 10, by_position=False))
        24
    """
    positions = list(range(seq)) if by_position else [None]
    edits = []
    for layer in layers_with(model, site):
        n_heads = model.anatomy.blocks[layer].n_heads
        heads = list(range(n_heads)) if site in HEAD_SITES else [None]
        edits += [
            Edit(site=site, layer=layer, head=head, position=position)
            for head in heads
            for position in positions
        ]
    return edits


def edits_of(row: Row) -> tuple[Edit, ...]:
    """The edits of a row.

    Example:
        >>> edits_of(Edit(site="head", layer=2, head=0))[0].layer
        2
    """
    return (row,) if isinstance(row, Edit) else row


def by_first_layer(edits: Iterable[Row]) -> list[tuple[int, list[Row]]]:
    """Rows by the layer at which they begin, in the order of the layers.

    Example:
        >>> rows = [Edit(site="attn_out", layer=1), Edit(site="attn_out", layer=0)]
        >>> [layer for layer, _ in by_first_layer(rows)]
        [0, 1]
    """
    by_layer: dict[int, list[Row]] = {}
    for row in edits:
        by_layer.setdefault(min(edit.layer for edit in edits_of(row)), []).append(row)
    return sorted(by_layer.items())


def replacing(rows: Sequence[Sequence[Edit]], source: Source) -> list[tuple[str, Hook]]:
    """Hooks that make the edits of each row in its row of a batch, in the order of the layers.

    Args:
        rows: The edits of each row; further rows of the batch stay as they are.
        source: What the replacements come from.

    Example:
        >>> edit = Edit(site="attn_out", layer=2)
        >>> hooks = replacing([[edit]], {"model.layers.2.self_attn": mx.zeros((1, 1, 1))})
        >>> [path for path, _ in hooks]
        ['model.layers.2.self_attn']
    """
    placed: dict[str, dict[Origin, list[tuple[int, Edit]]]] = {}
    in_order = sorted(
        ((number, edit) for number, row in enumerate(rows) for edit in row),
        key=lambda pair: pair[1].layer,
    )
    for number, edit in in_order:
        origin = (edit.source_path, edit.source_head, edit.source_position)
        placed.setdefault(edit.path, {}).setdefault(origin, []).append((number, edit))
    return [(path, _replacer(groups, source)) for path, groups in placed.items()]


def _replacer(groups: Mapping[Origin, Sequence[tuple[int, Edit]]], source: Source) -> Hook:
    """Replaces where a mask says so, once for each place that replacements come from."""

    def replace(inputs: tuple[object, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        shape = output.shape
        for (path, head, place), edits in groups.items():
            value = source[path]
            if head is not None:
                value = value[:, head : head + 1]
            if place is not None:
                value = value[..., place : place + 1, :]
            output = mx.where(_mask(edits, shape), value.astype(output.dtype), output)
        return output

    return replace


def _mask(edits: Sequence[tuple[int, Edit]], shape: tuple[int, ...]) -> mx.array:
    """Which entries the edits of rows replace: boolean, broadcastable to the site's shape."""
    rows = shape[0]
    # [rows, n_heads, seq, d_head], or of patterns [rows, n_heads, query, key]; all others:
    # [rows, seq, d_model]
    per_head = len(shape) == 4
    n_heads, seq = (shape[1], shape[2]) if per_head else (1, shape[1])
    mask = np.zeros((rows, n_heads, seq, 1), dtype=np.bool_)
    for row, edit in edits:
        heads = slice(None) if edit.head is None else edit.head
        places = slice(None) if edit.position is None else edit.position
        mask[row, heads, places] = True
    return mx.array(mask if per_head else mask[:, 0])
