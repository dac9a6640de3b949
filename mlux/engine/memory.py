"""The device and its memory: for provenance, and to know what a computation takes."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlx.core as mx

_highest = 0
"""The peak before the last measurement of `needed_by`, which starts MLX's own count afresh."""


def device() -> str:
    """The device that MLX computes on, as in `Device(cpu, 0)`."""
    return str(mx.default_device())


def on_cpu() -> bool:
    """Whether MLX computes on the CPU."""
    return mx.default_device() == mx.Device(mx.cpu)


def reset_peak() -> None:
    """Starts measuring the peak afresh."""
    global _highest
    _highest = 0
    mx.reset_peak_memory()


def peak() -> int:
    """The most bytes that MLX held at once since `reset_peak`."""
    return max(_highest, mx.get_peak_memory())


def needed_by(run: Callable[[], object]) -> int:
    """The most bytes that a call holds at once, over what was held before it.

    It starts MLX's own `get_peak_memory` afresh; `peak` remembers what was before.
    """
    global _highest
    gc.collect()  # what is freed while the call runs would be missing from its peak
    _highest = peak()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    run()
    return mx.get_peak_memory() - before


def held() -> int:
    """The bytes that MLX holds now."""
    return mx.get_active_memory()


def release() -> None:
    """Gives back what nothing refers to any more, and what MLX keeps for later arrays."""
    gc.collect()  # modules may refer to each other in rings
    mx.clear_cache()


@contextmanager
def below(ceiling: int) -> Iterator[None]:
    """Runs the body without working ahead where that would hold more than so many bytes.

    MLX allocates the results of several operations before the first of them is computed; above
    its limit it waits for them one by one, so that no more meet than the computation needs.
    """
    before = mx.set_memory_limit(max(ceiling, 1))
    try:
        yield
    finally:
        mx.set_memory_limit(before)


def seed(value: int) -> None:
    """Seeds MLX's random numbers."""
    mx.random.seed(value)
