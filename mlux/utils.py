"""The tools of mlux 0.2 for modules under their old module path; most live in `mlux.compat`."""

from collections.abc import Iterator, Mapping
from typing import Any

from mlux.compat import (
    HookWrapper,
    collect_activations,
    find_modules,
    unwrap_modules,
    wrap_modules,
)

__all__ = [
    "clear_all_caches",
    "collect_activations",
    "find_by_name",
    "find_by_type",
    "find_modules",
    "iter_modules",
    "unwrap_modules",
    "wrap_modules",
]


def iter_modules(module: Any) -> Iterator[tuple[str, Any]]:
    """Every module below one, with its path."""
    return iter(find_modules(module, lambda path, found: True))


def find_by_type(model: Any, module_type: type) -> list[tuple[str, Any]]:
    """The modules of a class, with their paths."""
    return find_modules(model, lambda path, module: isinstance(module, module_type))


def find_by_name(model: Any, pattern: str) -> list[tuple[str, Any]]:
    """The modules whose path contains a text, with their paths."""
    return find_modules(model, lambda path, module: pattern in path)


def clear_all_caches(wrappers: Mapping[str, HookWrapper]) -> None:
    """Forgets what went in and came out of each wrapped module."""
    for wrapper in wrappers.values():
        wrapper.clear_cache()
