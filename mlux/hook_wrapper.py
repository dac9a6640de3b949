"""The hooks of mlux 0.2 under their old module path; they live in `mlux.compat`."""

from mlux.compat import HookWrapper
from mlux.engine.passes import Hook as HookFn
from mlux.engine.passes import PreHook as PreHookFn

__all__ = ["HookFn", "HookWrapper", "PreHookFn"]
