"""mlux: look inside language models on your own machine, and keep the lab notebook.

Names are imported when they are first used, so that `import mlux` and `mlux --help` cost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mlux.compare as compare
    import mlux.registry as registry
    from mlux.engine import HookedModel as HookedModel
    from mlux.registry import experiment as experiment
    from mlux.runner import run_experiment as run_experiment

_HOMES = {
    "HookedModel": "mlux.engine",
    "experiment": "mlux.registry",
    "run_experiment": "mlux.runner",
}
_MODULES = ("compare", "registry")

__all__ = ["HookedModel", "compare", "experiment", "registry", "run_experiment"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(f"mlux.{name}")
    raise AttributeError(f"module 'mlux' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
