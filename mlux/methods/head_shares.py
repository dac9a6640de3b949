"""What each head of a block writes into the residual stream.

A head's z goes through its slice of the map that joins the heads; what that map does to zeros (its
bias) is nobody's. Behind it may stand a norm (Gemma 2, OLMo 2), whose scale is then held fixed, or
a constant factor (Granite). Taken as differences through the module itself, so that gates before it
and quantised weights need nothing of their own. Source: Elhage et al. (2021).
"""

from collections.abc import Mapping

import mlx.core as mx

from mlux.engine import HookedModel, sites
from mlux.methods.frozen_norm import freeze_norm, nearly_equal
from mlux.methods.reading import GIVEN


def paths_of_heads(model: HookedModel, layer: int) -> list[str]:
    """What `split_heads` needs to have been read, beside `attn_out`.

    Example:
        >>> from mlux import HookedModel
        >>> paths_of_heads(HookedModel.from_pretrained("demo"), 2)[0]
        'model.layers.2.self_attn.o_proj.given'
    """
    o_proj = model.anatomy.blocks[layer].o_proj
    return [] if o_proj is None else [o_proj + GIVEN, o_proj]


def split_heads(model: HookedModel, layer: int, read: Mapping[str, mx.array]) -> mx.array | None:
    """What each head adds to the residual stream, [rows, n_heads, d_model] float32.

    Args:
        model: The model.
        layer: The block.
        read: Path → [rows, width], what `paths_of_heads` names and `attn_out`.

    Example:
        >>> from mlux import HookedModel
        >>> from mlux.methods.reading import read_at
        >>> model = HookedModel.from_pretrained("demo")
        >>> batch, attn_out = model.to_batch("mary lives in"), sites.attn_out(2)
        >>> paths = [*paths_of_heads(model, 2), attn_out]
        >>> read, _ = read_at(model, batch.tokens, batch.last, paths)
        >>> written = split_heads(model, 2, read)
        >>> written.shape, bool(mx.allclose(mx.sum(written, axis=1), read[attn_out], atol=1e-4))
        ((1, 4, 128), True)

    Returns:
        None where the heads of this block cannot be told apart: no linear map joins them, or what
        it returns is not what the block adds, up to a norm or a factor.
    """
    block = model.anatomy.blocks[layer]
    if block.o_proj is None or len(block.attn_out) != 1:
        return None
    joined = model.layout.modules[block.o_proj]
    given, returned = read[block.o_proj + GIVEN], read[block.o_proj]
    added = read[sites.attn_out(layer)]
    if given.shape[-1] % block.n_heads or returned.shape != added.shape:
        return None
    width = given.shape[-1] // block.n_heads
    mine = mx.arange(given.shape[-1]) // width == mx.arange(block.n_heads)[:, None]
    alone = mx.where(mine, given[:, None], 0)  # [rows, n_heads, width of all heads]
    nothing = joined(mx.zeros_like(alone)).astype(mx.float32)
    outputs = joined(alone).astype(mx.float32) - nothing  # [rows, n_heads, d_model]
    if not nearly_equal(mx.sum(outputs, axis=1) + nothing[:, 0], returned, returned.dtype):
        return None
    return _behind(model, layer, outputs, returned, added)


def _behind(
    model: HookedModel, layer: int, outputs: mx.array, returned: mx.array, added: mx.array
) -> mx.array | None:
    """The heads' outputs after what stands between the joining map and the residual stream."""
    (term,) = model.anatomy.blocks[layer].attn_out
    returned, added, dtype = returned.astype(mx.float32), added.astype(mx.float32), added.dtype
    factor = mx.sum(returned * added) / mx.sum(returned * returned)
    if nearly_equal(factor * returned, added, dtype):
        return factor * outputs
    norm = freeze_norm(
        model.layout.modules[term.path], returned.astype(dtype), (added / term.factor).astype(dtype)
    )
    return None if norm is None else norm.linear(outputs) * term.factor
