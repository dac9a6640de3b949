"""mlux: look inside language models on your own machine, and keep the lab notebook.

Names are imported when they are first used, so that `import mlux` and `mlux --help` cost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mlux.compare as compare
    import mlux.registry as registry
    import mlux.steering as steering
    import mlux.templates as templates
    from mlux.compat import (
        HookWrapper as HookWrapper,
    )
    from mlux.compat import (
        batch_get_activations as batch_get_activations,
    )
    from mlux.compat import (
        collect_activations as collect_activations,
    )
    from mlux.compat import (
        compute_attention_patterns as compute_attention_patterns,
    )
    from mlux.compat import (
        find_modules as find_modules,
    )
    from mlux.compat import (
        get_attention_info as get_attention_info,
    )
    from mlux.compat import (
        get_hidden_dim as get_hidden_dim,
    )
    from mlux.compat import (
        unwrap_modules as unwrap_modules,
    )
    from mlux.compat import (
        wrap_modules as wrap_modules,
    )
    from mlux.engine import HookedModel as HookedModel
    from mlux.methods.mediation import causal_mediation as causal_mediation
    from mlux.registry import experiment as experiment
    from mlux.runner import run_experiment as run_experiment
    from mlux.steering import (
        ContrastiveSteering as ContrastiveSteering,
    )
    from mlux.steering import (
        auto_calibrate_alpha as auto_calibrate_alpha,
    )
    from mlux.steering import (
        compute_steering_vector as compute_steering_vector,
    )
    from mlux.steering import (
        create_additive_hook as create_additive_hook,
    )
    from mlux.steering import (
        create_steering_hook as create_steering_hook,
    )
    from mlux.steering import (
        generate_from_cache as generate_from_cache,
    )
    from mlux.steering import (
        generate_with_steering as generate_with_steering,
    )
    from mlux.steering import (
        prefill_with_cache as prefill_with_cache,
    )
    from mlux.steering import (
        suggest_alpha as suggest_alpha,
    )
    from mlux.store.artifacts import load as load_artifact
    from mlux.templates import PROMPT_TEMPLATES as PROMPT_TEMPLATES

_NAMES = {
    "mlux.engine": ["HookedModel"],
    "mlux.registry": ["experiment"],
    "mlux.runner": ["run_experiment"],
    "mlux.templates": ["PROMPT_TEMPLATES"],
    "mlux.methods.mediation": ["causal_mediation"],
    "mlux.steering": [
        "ContrastiveSteering",
        "auto_calibrate_alpha",
        "compute_steering_vector",
        "create_additive_hook",
        "create_steering_hook",
        "generate_from_cache",
        "generate_with_steering",
        "prefill_with_cache",
        "suggest_alpha",
    ],
    "mlux.compat": [
        "HookWrapper",
        "batch_get_activations",
        "collect_activations",
        "compute_attention_patterns",
        "find_modules",
        "get_attention_info",
        "get_hidden_dim",
        "unwrap_modules",
        "wrap_modules",
    ],
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}
_RENAMED = {"load_artifact": ("mlux.store.artifacts", "load")}
_MODULES = ("compare", "registry", "steering", "templates")

__all__ = [
    "PROMPT_TEMPLATES",
    "ContrastiveSteering",
    "HookWrapper",
    "HookedModel",
    "auto_calibrate_alpha",
    "batch_get_activations",
    "causal_mediation",
    "collect_activations",
    "compare",
    "compute_attention_patterns",
    "compute_steering_vector",
    "create_additive_hook",
    "create_steering_hook",
    "experiment",
    "find_modules",
    "generate_from_cache",
    "generate_with_steering",
    "get_attention_info",
    "get_hidden_dim",
    "load_artifact",
    "prefill_with_cache",
    "registry",
    "run_experiment",
    "steering",
    "suggest_alpha",
    "templates",
    "unwrap_modules",
    "wrap_modules",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _RENAMED:
        home, own = _RENAMED[name]
        return getattr(import_module(home), own)
    if name in _MODULES:
        return import_module(f"mlux.{name}")
    raise AttributeError(f"module 'mlux' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
