"""Activations at one position of each row, without ever keeping the other positions."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlux.engine import HookedModel, HookWrapper
from mlux.engine.arrays import first_array

GIVEN = ".given"
"""Behind a module's path: what the module is given instead of what it returns."""


def read_at(
    model: HookedModel, tokens: mx.array, positions: mx.array, paths: Sequence[str]
) -> tuple[dict[str, mx.array], mx.array]:
    """What lies at some paths, at one position of each row, with the logits there.

    Args:
        model: The model.
        tokens: [rows, seq] token ids.
        positions: [rows].
        paths: Canonical names or modules' own paths of what is [rows, seq, width]; a module's path
            with `.given` behind it is its first argument.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> batch = model.to_batch(["mary lives in", "the capital of france is"])
        >>> read, logits = read_at(model, batch.tokens, batch.last, ["model.layers.3"])
        >>> read["model.layers.3"].shape, logits.shape
        ((2, 128), (2, 1466))

    Returns:
        Path → [rows, width], and logits [rows, vocab_size], evaluated.
    """
    kept: dict[str, mx.array] = {}

    def at(array: mx.array) -> mx.array:
        if array.shape[1] == 1:  # behind the last block only that position goes on
            return array[:, 0]
        return mx.take_along_axis(array, positions[:, None, None], axis=1)[:, 0]

    def keep(inputs: tuple[Any, ...], output: Any, wrapper: HookWrapper) -> None:
        for name, value in ((wrapper.path, output), (wrapper.path + GIVEN, inputs)):
            array = first_array(value) if name in wanted else None
            if array is not None:
                kept[name] = at(array)

    wanted = set(paths)
    hooked = dict.fromkeys(path.removesuffix(GIVEN) for path in paths)
    logits = model.run_with_hooks(
        tokens, hooks=[(path, keep) for path in hooked], positions=positions
    )[:, 0]
    mx.eval(kept, logits)
    return kept, logits
