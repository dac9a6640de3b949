"""What a pass kept: activations by path."""

import mlx.core as mx

from mlux import display
from mlux.errors import UnknownNameError


class ActivationCache(dict[str, mx.array]):
    """Activations by the path under which they were asked for.

    An absent path raises with close matches. What a cache holds never changes afterwards.
    """

    def __missing__(self, path: str) -> mx.array:
        raise UnknownNameError("cached activation", path, self, "See cache.keys().")

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        values = (
            (path, list(array.shape), str(array.dtype).removeprefix("mlx.core."))
            for path, array in self.items()
        )
        title = f"ActivationCache with {len(self)} activations"
        return display.rows(title, ("path", "shape", "dtype"), values)

    def __repr__(self) -> str:
        """Each path with its shape and dtype."""
        rows = [
            f"  {path}: {list(array.shape)} {str(array.dtype).removeprefix('mlx.core.')}"
            for path, array in self.items()
        ]
        return "\n".join([f"ActivationCache with {len(self)} activations", *rows])
