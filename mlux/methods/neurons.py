"""Neurons: the entries of an MLP's hidden layer, what its last map reads.

Which module that is, is found by its shape: the one linear map of a block outside its token mixer
whose output is as wide as the residual stream. Mixtures of experts have none, with a shared
expert or without, and say so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedLinear

from mlux.engine import HookedModel, HookWrapper
from mlux.engine.passes import PreHook
from mlux.errors import HookError


def last_map(model: HookedModel, layer: int) -> str:
    """The path of the map whose input is the MLP's neurons.

    Example:
        >>> from mlux import HookedModel
        >>> last_map(HookedModel.from_pretrained("demo"), 2)
        'model.layers.2.mlp.down_proj'

    Raises:
        HookError: If the block has no such map, or more than one.
    """
    found = _maps(model, layer)
    if len(found) != 1:
        raise HookError(
            f"Block {layer} has {len(found)} maps that could read an MLP's neurons, so it has no "
            "neurons to speak of; choose another mediator."
        )
    return found.pop()


def layers_with_neurons(model: HookedModel) -> list[int]:
    """The layers that have neurons; mixers and mixtures of experts alone have none.

    Example:
        >>> from mlux import HookedModel
        >>> layers_with_neurons(HookedModel.from_pretrained("demo"))
        [0, 1, 2, 3, 4, 5]

    Raises:
        HookError: If no layer has any.
    """
    found = [layer for layer in range(len(model.layers)) if len(_maps(model, layer)) == 1]
    if not found:
        raise HookError("No block of this model has neurons to speak of; choose another mediator.")
    return found


def _maps(model: HookedModel, layer: int) -> set[str]:
    """The paths of the maps of a block that could read an MLP's neurons; none beside experts."""
    block = model.anatomy.blocks[layer]
    modules = model.layout.modules
    inside = f"{block.path}."
    mixer = f"{block.mixer}." if block.mixer else None
    found = set()
    for path, module in modules.items():
        if not path.startswith(inside) or (mixer and path.startswith(mixer)):
            continue
        if "weight" in module and module["weight"].shape[1:-1] == (model.anatomy.d_model,):
            return set()  # experts side by side: a shared one's neurons are not those of the MLP
        if not isinstance(module, Linear | QuantizedLinear):
            continue
        if module["weight"].shape[0] == model.anatomy.d_model:
            parent = path.rpartition(".")[0]
            # An adapter's map reads the same neurons beside the map that it wraps.
            found.add(parent if "lora_a" in modules[parent] else path)
    return found


def neurons(model: HookedModel, ids: Sequence[int], layers: Sequence[int]) -> dict[int, mx.array]:
    """The neurons of some layers on a prompt: layer → [1, seq, n_neurons].

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> neurons(model, model.tokenize("mary lives in"), [2])[2].shape
        (1, 4, 384)
    """
    found: dict[int, mx.array] = {}

    def keep(layer: int) -> PreHook:
        def look(args: Any, kwargs: Any, wrapper: HookWrapper) -> None:
            found[layer] = args[0][...]

        return look

    hooks = [(last_map(model, layer), keep(layer)) for layer in layers]
    model.run_with_hooks(mx.array([list(ids)]), pre_hooks=hooks)
    mx.eval(found)
    return found


def replacing_neurons(
    model: HookedModel, layer: int, rows: Sequence[Sequence[int]], source: Mapping[int, mx.array]
) -> list[tuple[str, PreHook]]:
    """Hooks that give each row of a batch some of a source's neurons, at all positions.

    Args:
        model: The model.
        layer: The block.
        rows: The neurons that each row gets.
        source: Layer → [1, seq, n_neurons].

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> source = neurons(model, model.tokenize("mary lives in"), [2])
        >>> [path for path, _ in replacing_neurons(model, 2, [[0, 1]], source)]
        ['model.layers.2.mlp.down_proj']
    """

    def put(
        args: tuple[Any, ...], kwargs: dict[str, Any], wrapper: HookWrapper
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden, *others = args
        numbers = mx.arange(hidden.shape[-1])
        chosen = mx.stack(
            [mx.any(numbers[:, None] == mx.array(list(row))[None], axis=1) for row in rows]
        )[:, None]  # [rows, 1, n_neurons]
        return (mx.where(chosen, source[layer].astype(hidden.dtype), hidden), *others), kwargs

    return [(last_map(model, layer), put)]
