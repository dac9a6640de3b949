"""Lanes: batches side by side on a CPU, one core for each.

On a CPU MLX computes everything but matrix products on one core, however many there are, and what
is left to that core takes as long as the products do on all of them (SiLU: 15 ns a number). MLX
runs streams beside one another, so several batches, each in a stream of its own and its products on
one core, keep every core at work. Where MLX computes on a GPU there is one lane, and nothing of
this happens.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import cache
from itertools import islice
from typing import Any, TypeVar

import mlx.core as mx

from mlux.engine.memory import below, on_cpu

Tree = TypeVar("Tree")


def most() -> int:
    """How many lanes this machine has: the cores that BLAS may use on a CPU, else one.

    Example:
        >>> most() >= 1
        True
    """
    return _cores() if on_cpu() else 1


def side_by_side(
    builders: Iterable[Callable[[], Tree]], lanes: int, *, top: int | None = None
) -> Iterator[Tree]:
    """Computes what each of some functions builds, as many at a time as there are lanes.

    Args:
        builders: Each returns an array or a tree of arrays, not evaluated.
        lanes: With one, a product has every core; with more, each lane has one.
        top: As in `memory.below`, while they are computed.

    Example:
        >>> builders = [lambda: mx.array(1) + 1, lambda: mx.array(2) + 1]
        >>> [array.item() for array in side_by_side(builders, lanes=2)]
        [2, 3]

    Yields:
        What they return, evaluated, in their order.
    """
    rest = iter(builders)
    while together := list(islice(rest, lanes)):
        built = []
        with (
            _blas().limit(limits=1) if lanes > 1 else nullcontext(),
            nullcontext() if top is None else below(top),
        ):
            for stream, build in zip(_streams(len(together)), together, strict=True):
                with mx.stream(stream):
                    built.append(build())
            mx.eval(built)
        yield from built


_of_thread = threading.local()


def _streams(count: int) -> list[mx.Stream]:
    """A stream for each lane, the default one first; those of another thread are of no use."""
    own: list[mx.Stream] = _of_thread.__dict__.setdefault("streams", [])
    while len(own) < count - 1:
        own.append(mx.new_stream(mx.default_device()))
    return [mx.default_stream(mx.default_device()), *own][:count]


@cache
def _blas() -> Any:
    # Where two threads limit it at once, the first one's limit holds and the other goes without:
    # slower, but both give back what they found.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@cache
def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads: list[int] = [library["num_threads"] for library in _blas().info()]
    return min([cores or 1, *threads])
