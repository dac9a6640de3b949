"""The device and its memory, for provenance."""

import mlx.core as mx


def device() -> str:
    """The device that MLX computes on, as in `Device(cpu, 0)`."""
    return str(mx.default_device())


def reset_peak() -> None:
    """Starts measuring the peak afresh."""
    mx.reset_peak_memory()


def peak() -> int:
    """The most bytes that MLX held at once since `reset_peak`."""
    return mx.get_peak_memory()


def seed(value: int) -> None:
    """Seeds MLX's random numbers."""
    mx.random.seed(value)
