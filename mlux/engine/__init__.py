"""Loading, anatomy and hooks: reading and editing a model by name.

Importing this package loads an optimised BLAS first, because MLX binds its own when it is imported.
"""

from mlux.engine import blas

blas.load()

from mlux.engine.cache import ActivationCache  # noqa: E402 # after the BLAS
from mlux.engine.model import HookedModel  # noqa: E402 # after the BLAS
from mlux.engine.passes import HookWrapper  # noqa: E402 # after the BLAS

__all__ = ["ActivationCache", "HookWrapper", "HookedModel"]
