"""Hooks by class swap: the only code of mlux that touches a model's modules.

While a pass runs, each module with something to do carries a generated subclass of its own class
whose `__call__` consults the pass of the current thread. Identity, `isinstance`, attributes,
children and parameters stay as they were, and the class is put back when the last pass that needs
it ends, whatever happens in between. A module that runs in another thread meanwhile, or inside a
nested pass without hooks of its own, behaves as if nothing were installed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

from mlx.nn.layers.base import Module

from mlux.engine.threads import ready

Call = Callable[..., Any]
Handler = Callable[[Call, tuple[Any, ...], dict[str, Any]], Any]
"""handler(call, args, kwargs) → output, where call(*args, **kwargs) runs the module itself."""

_handlers: ContextVar[Mapping[int, Handler]] = ContextVar("mlux_handlers")
_lock = Lock()
_users: dict[int, int] = {}
_subclasses: dict[type, type] = {}


@contextmanager
def handling(handlers: Mapping[int, tuple[Module, Handler]]) -> Iterator[None]:
    """Runs the body with a handler around each module, in this thread only.

    Args:
        handlers: id(module) → (module, handler).
    """
    ready()
    token = _handlers.set({key: handler for key, (_, handler) in handlers.items()})
    modules = [module for module, _ in handlers.values()]
    swapped = 0
    try:
        for module in modules:
            _swap(module)
            swapped += 1
        yield
    finally:
        _restore(modules[:swapped])
        _handlers.reset(token)


def _swap(module: Module) -> None:
    with _lock:
        _users[id(module)] = _users.get(id(module), 0) + 1
        if _users[id(module)] == 1:
            module.__class__ = _subclass(type(module))


def _restore(modules: Iterable[Module]) -> None:
    for module in modules:
        with _lock:
            _users[id(module)] -= 1
            if _users[id(module)] == 0:
                del _users[id(module)]
                module.__class__ = type(module).__bases__[0]


def _subclass(original: type) -> type:
    if original not in _subclasses:

        def __call__(self: Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 # it is the method
            def call(*args: Any, **kwargs: Any) -> Any:
                return original.__call__(self, *args, **kwargs)

            handler = _handlers.get({}).get(id(self))
            return call(*args, **kwargs) if handler is None else handler(call, args, kwargs)

        # The swapped class keeps the name, so that a model prints the same inside a hook.
        names = {"__call__": __call__, "__module__": original.__module__, "__doc__": None}
        names["__qualname__"] = original.__qualname__
        _subclasses[original] = type(original.__name__, (original,), names)
    return _subclasses[original]
