"""What every head of a model holds and writes, at one position of each prompt."""

from dataclasses import dataclass

import mlx.core as mx

from mlux.engine import HookedModel, sites
from mlux.errors import ModelError
from mlux.methods.head_shares import paths_of_heads, split_heads
from mlux.methods.reading import read_at


@dataclass(frozen=True, kw_only=True)
class HeadOutputs:
    """The heads of one layer.

    Attributes:
        layer: The block.
        z: [batch, n_heads, d_head], before the output projection.
        added: [batch, n_heads, d_model] float32, what each head adds to the residual stream.
    """

    layer: int
    z: mx.array
    added: mx.array


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
        >>> layers[2].z.shape, layers[2].added.shape
        ((1, 4, 32), (1, 4, 128))

    Raises:
        ModelError: If what one head of a layer adds is not defined.
    """
    n_heads = {i: block.n_heads for i, block in enumerate(model.anatomy.blocks) if block.n_heads}
    of_heads = {
        layer: [sites.head(layer, head) for head in range(count)]
        for layer, count in n_heads.items()
    }
    paths = [
        path
        for layer, heads in of_heads.items()
        for path in (*heads, *paths_of_heads(model, layer), sites.attn_out(layer))
    ]
    read, logits = read_at(model, tokens, positions, paths)
    found = []
    for layer, heads in of_heads.items():
        added = split_heads(model, layer, read)
        if added is None:
            raise ModelError(
                f"Block {layer} has no single map that joins its heads, so what one head adds "
                "is not defined. See: mlux models check"
            )
        z = mx.stack([read[path] for path in heads], axis=1)
        found.append(HeadOutputs(layer=layer, z=z, added=added))
    mx.eval([(one.z, one.added) for one in found])
    return found, logits
