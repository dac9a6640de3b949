"""What each head writes into the residual stream, at one position of each prompt.

A head's output is its slice of z through the output projection, without the bias that belongs to
no head. Where a norm or a factor stands between the projection and the residual stream (Gemma 2,
Granite), its scale is frozen at what it is in this pass, so that the heads and the bias sum to
`attn_out`. Source: Elhage et al. (2021), "A Mathematical Framework for Transformer Circuits".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlux.engine import ActivationCache, HookedModel, HookWrapper, sites
from mlux.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class HeadOutputs:
    """The heads of one layer.

    Attributes:
        layer: The block.
        z: [batch, n_heads, d_head], before the output projection.
        added: [batch, n_heads, d_model] float32, what each head adds to the residual stream.
        attn_out: [batch, d_model] float32, what all heads and the bias add.
    """

    layer: int
    z: mx.array
    added: mx.array
    attn_out: mx.array


def head_outputs(
    model: HookedModel, tokens: mx.array, positions: mx.array
) -> tuple[list[HeadOutputs], mx.array]:
    """What every head holds and adds at one position of each row, and the logits there.

    Args:
        model: The model.
        tokens: [batch, seq].
        positions: [batch].

    Returns:
        One entry for each layer with attention, evaluated; and the logits [batch, vocab_size].

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> batch = model.to_batch("the capital of france is")
        >>> layers, logits = head_outputs(model, batch.tokens, batch.last)
        >>> layers[2].added.shape
        (1, 4, 128)
        >>> whole = layers[2].added.sum(axis=1)  # no bias here
        >>> bool(mx.allclose(whole, layers[2].attn_out, atol=1e-4))
        True

    Raises:
        ModelError: If a layer's heads are joined by no single map.
    """
    blocks = [(layer, block) for layer, block in enumerate(model.anatomy.blocks) if block.n_heads]
    for layer, block in blocks:
        if block.o_proj is None or not block.attn_out:
            raise ModelError(
                f"Block {layer} has no single map that joins its heads, so what one head adds "
                "is not defined. See: mlux models check"
            )
    paths = [
        path
        for layer, block in blocks
        for path in (sites.tap(layer, "z"), block.o_proj, sites.attn_out(layer))
    ]
    logits, cache = model.run_with_cache(tokens, hooks=filter(None, paths), positions=positions)
    gated = _projection_inputs(model, tokens, positions)
    found = [_outputs(model, layer, cache, gated, positions) for layer, _ in blocks]
    mx.eval(logits, [(one.z, one.added, one.attn_out) for one in found])
    return found, logits[:, 0]


def _projection_inputs(
    model: HookedModel, tokens: mx.array, positions: mx.array
) -> dict[str, mx.array]:
    """What goes into the projections behind a gate, [batch, n_heads · d_head]; z without one."""
    paths = [block.o_proj for block in model.anatomy.blocks if block.gated and block.o_proj]
    given: dict[str, mx.array] = {}

    def keep(inputs: tuple[Any, ...], output: Any, wrapper: HookWrapper) -> None:
        given[wrapper.path] = _at(inputs[0], positions)

    if paths:
        model.run_with_hooks(tokens, hooks=[(path, keep) for path in paths])
    return given


def _outputs(
    model: HookedModel,
    layer: int,
    cache: ActivationCache,
    gated: Mapping[str, mx.array],
    positions: mx.array,
) -> HeadOutputs:
    block = model.anatomy.blocks[layer]
    assert block.o_proj is not None
    z = cache[sites.tap(layer, "z")]
    z = mx.take_along_axis(z, positions[:, None, None, None], axis=2)[:, :, 0]
    given = gated.get(block.o_proj, z.flatten(1))  # [batch, n_heads · d_head]
    attn_out = _at(cache[sites.attn_out(layer)], positions).astype(mx.float32)  # [batch, d_model]
    alone, bias = _projected(model.layout.modules[block.o_proj], given, block.n_heads)
    # 1 where the projection writes into the stream itself; else a norm's or a factor's scale.
    whole = _at(cache[block.o_proj], positions).astype(mx.float32)
    scale = mx.where(whole == 0, 0.0, attn_out / mx.where(whole == 0, 1.0, whole))
    return HeadOutputs(layer=layer, z=z, added=(alone - bias) * scale[:, None], attn_out=attn_out)


def _projected(module: Any, given: mx.array, n_heads: int) -> tuple[mx.array, mx.array]:
    """Each head alone through the projection, [batch, n_heads, d_model], and nothing through it."""
    width = given.shape[-1] // n_heads
    mine = mx.arange(given.shape[-1])[None] // width == mx.arange(n_heads)[:, None]
    alone = module(mx.where(mine, given[:, None], 0)).astype(mx.float32)
    return alone, module(mx.zeros_like(given[:1, None])).astype(mx.float32)


def _at(array: mx.array, positions: mx.array) -> mx.array:
    """[batch, seq, d] at one position of each row → [batch, d]."""
    return mx.take_along_axis(array, positions[:, None, None], axis=1)[:, 0]
