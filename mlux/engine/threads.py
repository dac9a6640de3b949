"""MLX's own threads: they end with the thread that made them, and a fork does not have them.

MLX computes on a CPU in a worker thread for each stream, and each thread of a program has streams
of its own. A thread that ends and leaves them behind lets MLX abort the process at exit; a forked
process has the streams without their workers, and waits for ever for the first result.
"""

import os
import threading

import mlx.core as mx

from mlux.errors import ModelError

_of_thread = threading.local()
_in_use = False
_lost = False


def ready() -> None:
    """Says that this thread is about to compute; what it leaves in MLX ends with it.

    Example:
        >>> ready()

    Raises:
        ModelError: If this process was forked from one in which MLX had computed.
    """
    global _in_use
    if _lost:
        raise ModelError(
            "MLX computed before this process was forked, so it would wait here for ever. Start "
            "processes with multiprocessing.get_context('spawn'), or fork before the first model."
        )
    _in_use = True
    off_main = threading.current_thread() is not threading.main_thread()
    if off_main and not hasattr(_of_thread, "streams"):
        _of_thread.streams = _Streams()


class _Streams:
    """The streams of a thread, which go when its thread-local values do: in it, at its end."""

    def __del__(self) -> None:
        mx.clear_streams()


def _after_fork() -> None:
    # What others computed without mlux is seen by what MLX keeps of the arrays that it freed.
    global _lost
    _lost = _lost or _in_use or mx.get_cache_memory() > 0


os.register_at_fork(after_in_child=_after_fork)
