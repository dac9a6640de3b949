"""The model of mlux 0.2 under its old module path; it lives in `mlux.engine`."""

from mlux.engine import HookedModel

__all__ = ["HookedModel"]
