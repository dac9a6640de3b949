"""Many edits of one prompt, planned instead of looped.

A sweep tries one edit a row: it starts at the edited layer from the cached residual stream (the
layers before are never computed), puts many edits into one batch and unembeds only the scored
position. Every batch has the same number of rows as the base pass, and a row is compared with its
own row of the base pass: the same kernels on the same shapes, so an edit that changes nothing
changes not one bit, whatever the matrix library does with the edges of a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx

from mlux.engine import ActivationCache, HookedModel, HookWrapper, sites

SiteName = Literal["resid_pre", "resid_post", "attn_out", "mlp_out", "head"]
SITES: tuple[SiteName, ...] = ("resid_pre", "resid_post", "attn_out", "mlp_out", "head")


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Replace a site by what it is in another pass.

    Attributes:
        site: What is replaced.
        layer: In which block.
        head: Which head, for the site `head`.
        position: At which position; None for all.
    """

    site: SiteName
    layer: int
    head: int | None = None
    position: int | None = None


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
    model: HookedModel, ids: Sequence[int], *, rows: int, position: int, site: SiteName
) -> BasePass:
    """Runs a prompt once in every row and keeps what edits of a site need.

    Args:
        model: The model.
        ids: The prompt's token ids.
        rows: Rows of the batch.
        position: The scored position.
        site: The site that edits will replace.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids = model.tokenize("mary lives in")
        >>> base_pass(model, ids, rows=2, position=3, site="attn_out").logits.shape
        (2, 1466)
    """
    tokens = mx.broadcast_to(mx.array(list(ids), dtype=mx.int32), (rows, len(ids)))
    paths = [sites.resid_pre(layer) for layer in range(len(model.layers))]
    paths += [path_of(site, layer) for layer in layers_with(model, site)]
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
    source: BasePass,
    edits: Sequence[Edit],
    *,
    position: int,
) -> Iterator[tuple[tuple[Edit, ...], mx.array]]:
    """The logits at one position after each edit of the base pass by the source pass.

    Args:
        model: The model.
        base: The pass that is edited.
        source: The pass that the replacements come from, of the same shape.
        edits: What to try. Edits of one layer should be next to each other.
        position: The scored position.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids, others = model.tokenize("mary lives in"), model.tokenize("john lives in")
        >>> base, source = (
        ...     base_pass(model, row, rows=2, position=3, site="mlp_out") for row in (ids, others)
        ... )
        >>> edits = [Edit(site="mlp_out", layer=layer) for layer in range(3)]
        >>> [len(chunk) for chunk, _ in sweep(model, base, source, edits, position=3)]
        [1, 1, 1]

    Yields:
        Some edits, and the logits [rows, vocab_size] whose first rows are theirs, evaluated.
    """
    rows = base.logits.shape[0]
    for layer in dict.fromkeys(edit.layer for edit in edits):
        of_layer = [edit for edit in edits if edit.layer == layer]
        for start in range(0, len(of_layer), rows):
            chunk = tuple(of_layer[start : start + rows])
            logits = _run_edits(model, base, source, chunk, layer, position)
            mx.eval(logits)
            yield chunk, logits


def _run_edits(
    model: HookedModel,
    base: BasePass,
    source: BasePass,
    edits: Sequence[Edit],
    layer: int,
    position: int,
) -> mx.array:
    path = path_of(edits[0].site, layer)
    rows = base.logits.shape[0]
    mask = _mask(edits, base.cache[path].shape)

    def replace(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return mx.where(mask, source.cache[path], output)

    logits, _ = model.run_from(
        layer,
        base.cache[sites.resid_pre(layer)],
        hooks=[(path, replace)],
        positions=mx.full((rows,), position, dtype=mx.int32),
        tokens=base.tokens,
    )
    return logits[:, 0]


def _mask(edits: Sequence[Edit], shape: tuple[int, ...]) -> mx.array:
    """Which entries each row's edit replaces: boolean, broadcastable to the site's shape."""
    rows = shape[0]
    per_head = len(shape) == 4  # z: [rows, n_heads, seq, d_head]; all others: [rows, seq, d_model]
    n_heads, seq = (shape[1], shape[2]) if per_head else (1, shape[1])
    mask = mx.zeros((rows, n_heads, seq, 1), dtype=mx.bool_)
    for row, edit in enumerate(edits):
        heads = slice(None) if edit.head is None else edit.head
        places = slice(None) if edit.position is None else edit.position
        mask[row, heads, places] = True
    return mask if per_head else mask[:, 0]
