"""MLX arrays to plain Python numbers, with the types that MLX's own stubs leave open."""

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt


def main_dtype(arrays: Iterable[mx.array]) -> str:
    """The floating-point dtype of most entries, by name."""
    sizes: dict[str, int] = {}
    for array in arrays:
        if mx.issubdtype(array.dtype, mx.floating):
            name = str(array.dtype).removeprefix("mlx.core.")
            sizes[name] = sizes.get(name, 0) + array.size
    return max(sizes, key=lambda name: sizes[name], default="float32")


def numbers(array: mx.array) -> Any:
    """Nested lists of floats (a float for a scalar), evaluated and widened to float32."""
    return array.astype(mx.float32).tolist()


def integers(array: mx.array) -> Any:
    """Nested lists of ints (an int for a scalar)."""
    return array.astype(mx.int64).tolist()


def to_numpy(array: mx.array) -> npt.NDArray[np.float64]:
    """A float64 copy on the host; bfloat16 has no NumPy dtype, so it is widened first."""
    return np.array(array.astype(mx.float32)).astype(np.float64)


def on_host(array: Any) -> npt.NDArray[Any]:
    """A NumPy copy in the array's own dtype; bfloat16, which NumPy lacks, becomes float32."""
    if isinstance(array, mx.array) and array.dtype == mx.bfloat16:
        array = array.astype(mx.float32)
    return np.array(array)


def snapshot(array: mx.array) -> mx.array:
    """The same values under a new array object.

    A model may write into the Python object of an activation after a hook saw it (gemma3n writes
    into the residual stream), so a capture keeps this instead of the object.
    """
    return array[...]


def first_array(value: Any) -> mx.array | None:
    """The array that a module takes or returns: itself, or the first one of a tuple."""
    if isinstance(value, mx.array):
        return value
    if isinstance(value, tuple | list):
        return next((item for item in value if isinstance(item, mx.array)), None)
    return None
