"""Many edits of one prompt, planned instead of looped.

A sweep tries one intervention a row: it starts at the first edited layer from the cached residual
stream (the layers before are never computed), puts many interventions into one batch and unembeds
only the scored position. Every batch has the same number of rows as the base pass, and a row is
compared with its own row of the base pass: the same kernels on the same shapes, so an edit that
changes nothing changes not one bit, whatever the matrix library does with the edges of a batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from mlux.engine import ActivationCache, HookedModel, HookWrapper, sites
from mlux.engine.passes import Hook

SiteName = Literal["resid_pre", "resid_post", "attn_out", "mlp_out", "head"]
SITES: tuple[SiteName, ...] = ("resid_pre", "resid_post", "attn_out", "mlp_out", "head")


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Replace a site by what a source holds there, or at another layer or position.

    Attributes:
        site: What is replaced.
        layer: In which block.
        head: Which head, for the site `head`; None for all.
        position: At which position; None for all.
        source_layer: The block that the replacement comes from; None for the same.
        source_position: The position that it comes from; None for the same. With it, `position`
            is one position.
    """

    site: SiteName
    layer: int
    head: int | None = None
    position: int | None = None
    source_layer: int | None = None
    source_position: int | None = None

    def __post_init__(self) -> None:
        if self.source_position is not None and self.position is None:
            raise ValueError("source_position needs the one position that it goes to")

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


Origin = tuple[str, int | None]
"""The path and position of a source that replacements come from; None for their own position."""


@dataclass(frozen=True, kw_only=True)
class BasePass:
    """An unedited pass with every row the same prompt, and what its sites hold.

    Attributes:
        tokens: What was run, [rows, seq].
        cache: Activations by path, [rows, …].
        logits: At the scored position, [rows, vocab_size].
    """

    tokens: mx.array
    cache: ActivationCache
    logits: mx.array


def path_of(site: SiteName, layer: int) -> str:
    """The hook path of a site; heads are read together, as z.

    Example:
        >>> path_of("head", 2)
        'model.layers.2.self_attn.z'
    """
    if site == "head":
        return sites.tap(layer, "z")
    makers = {
        "resid_pre": sites.resid_pre,
        "resid_post": sites.resid_post,
        "attn_out": sites.attn_out,
        "mlp_out": sites.mlp_out,
    }
    return makers[site](layer)


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


def base_pass(
    model: HookedModel,
    ids: Sequence[int],
    *,
    rows: int,
    position: int,
    site: SiteName | Sequence[SiteName],
) -> BasePass:
    """Runs a prompt once in every row and keeps what edits of a site need.

    Args:
        model: The model.
        ids: The prompt's token ids.
        rows: Rows of the batch.
        position: The scored position.
        site: The site or sites that edits will replace.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids = model.tokenize("mary lives in")
        >>> base_pass(model, ids, rows=2, position=3, site="attn_out").logits.shape
        (2, 1466)
    """
    tokens = mx.broadcast_to(mx.array(list(ids), dtype=mx.int32), (rows, len(ids)))
    paths = [sites.resid_pre(layer) for layer in range(len(model.layers))]
    for name in [site] if isinstance(site, str) else site:
        paths += [path_of(name, layer) for layer in layers_with(model, name)]
    scored = mx.full((rows,), position, dtype=mx.int32)
    logits, cache = model.run_with_cache(tokens, hooks=paths, positions=scored)
    return BasePass(tokens=tokens, cache=cache, logits=logits[:, 0])


def rows_within(model: HookedModel, *, seq: int, n_edits: int, budget: int = 1 << 30) -> int:
    """How many rows a sweep's batches may have: no more than edits, and within a memory budget.

    Args:
        model: The model.
        seq: Tokens of the prompt.
        n_edits: Edits of one layer.
        budget: Bytes for what the two base passes keep.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> rows_within(model, seq=15, n_edits=90), rows_within(model, seq=15, n_edits=90, budget=1)
        (90, 1)
    """
    config = model.config
    widths: int = config["d_model"] + max(config["d_model"], config["n_heads"] * config["d_head"])
    per_row = 2 * len(model.layers) * seq * widths * model.resid_dtype.size
    return max(1, min(n_edits, budget // per_row))


def sweep(
    model: HookedModel,
    base: BasePass,
    source: Source,
    edits: Sequence[Row],
    *,
    position: int,
) -> Iterator[tuple[tuple[Row, ...], mx.array]]:
    """The logits at one position after each row's edits of the base pass.

    Args:
        model: The model.
        base: The pass that is edited.
        source: What the replacements come from: the cache of another base pass of as many rows
            (patching), or any arrays by path, such as zeros or means (ablation).
        edits: What to try, one row each. They are run in the order of their first layers.
        position: The scored position.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids, others = model.tokenize("mary lives in"), model.tokenize("john lives in")
        >>> base, source = (
        ...     base_pass(model, row, rows=2, position=3, site="mlp_out") for row in (ids, others)
        ... )
        >>> edits = [Edit(site="mlp_out", layer=layer) for layer in range(3)]
        >>> [len(chunk) for chunk, _ in sweep(model, base, source.cache, edits, position=3)]
        [1, 1, 1]

    Yields:
        Some of the rows, and the logits [rows, vocab_size] whose first rows are theirs, evaluated.
    """
    rows = base.logits.shape[0]
    for layer, of_layer in _by_first_layer(edits):
        for start in range(0, len(of_layer), rows):
            chunk = tuple(of_layer[start : start + rows])
            logits, _ = model.run_from(
                layer,
                base.cache[sites.resid_pre(layer)],
                hooks=row_hooks(list(map(edits_of, chunk)), base, source),
                positions=mx.full((rows,), position, dtype=mx.int32),
                tokens=base.tokens,
            )
            logits = logits[:, 0]
            mx.eval(logits)
            yield chunk, logits


def edits_of(row: Row) -> tuple[Edit, ...]:
    """The edits of a row.

    Example:
        >>> edits_of(Edit(site="head", layer=2, head=0))[0].layer
        2
    """
    return (row,) if isinstance(row, Edit) else row


def largest_batch(edits: Sequence[Row]) -> int:
    """The most rows that begin at one layer, and so can share a batch.

    Example:
        >>> largest_batch([Edit(site="attn_out", layer=layer) for layer in (0, 1, 1)])
        2
    """
    return max(len(of_layer) for _, of_layer in _by_first_layer(edits))


def _by_first_layer(edits: Sequence[Row]) -> list[tuple[int, list[Row]]]:
    by_layer: dict[int, list[Row]] = {}
    for row in edits:
        by_layer.setdefault(min(edit.layer for edit in edits_of(row)), []).append(row)
    return sorted(by_layer.items())


def row_hooks(
    rows: Sequence[Sequence[Edit]], base: BasePass, source: Source
) -> list[tuple[str, Hook]]:
    """Hooks that make the edits of each row in its row of a batch, in the order of the layers.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> base = base_pass(
        ...     model, model.tokenize("mary lives in"), rows=1, position=3, site="attn_out"
        ... )
        >>> edit = Edit(site="attn_out", layer=2)
        >>> [path for path, _ in row_hooks([[edit]], base, base.cache)]
        ['model.layers.2.self_attn']
    """
    placed: dict[str, dict[Origin, list[tuple[int, Edit]]]] = {}
    in_order = sorted(
        ((number, edit) for number, row in enumerate(rows) for edit in row),
        key=lambda pair: pair[1].layer,
    )
    for number, edit in in_order:
        origin = (edit.source_path, edit.source_position)
        placed.setdefault(edit.path, {}).setdefault(origin, []).append((number, edit))
    return [
        (path, _replacer(groups, base.cache[path].shape, source)) for path, groups in placed.items()
    ]


def _replacer(
    groups: Mapping[Origin, Sequence[tuple[int, Edit]]],
    shape: tuple[int, ...],
    source: Source,
) -> Hook:
    """Replaces where a mask says so, once for each place that replacements come from."""
    parts = []
    for (path, place), edits in groups.items():
        value = source[path]
        if place is not None:
            value = value[..., place : place + 1, :]
        parts.append((_mask(edits, shape), value))

    def replace(inputs: tuple[object, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        for mask, value in parts:
            output = mx.where(mask, value.astype(output.dtype), output)
        return output

    return replace


def _mask(edits: Sequence[tuple[int, Edit]], shape: tuple[int, ...]) -> mx.array:
    """Which entries the edits of rows replace: boolean, broadcastable to the site's shape."""
    rows = shape[0]
    per_head = len(shape) == 4  # z: [rows, n_heads, seq, d_head]; all others: [rows, seq, d_model]
    n_heads, seq = (shape[1], shape[2]) if per_head else (1, shape[1])
    mask = mx.zeros((rows, n_heads, seq, 1), dtype=mx.bool_)
    for row, edit in edits:
        heads = slice(None) if edit.head is None else edit.head
        places = slice(None) if edit.position is None else edit.position
        mask[row, heads, places] = True
    return mask if per_head else mask[:, 0]
