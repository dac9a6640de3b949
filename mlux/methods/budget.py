"""How many rows a batch may have within a budget of bytes: measured, not guessed.

What a batched computation holds at once grows by the same bytes with every row, since every array
in it has the rows as an axis or has nothing to do with them. So n rows hold no more than n times
the peak of one row, and the peak of two rows says how much of that is paid only once.
"""

from collections.abc import Callable, Hashable
from weakref import WeakKeyDictionary

from mlux.engine import HookedModel, memory
from mlux.errors import ParameterError

MARGIN = 1.08
"""On what was measured."""

AHEAD = 0.85
"""The part of the budget up to which MLX may work ahead; see `memory.below`."""

TOKENS_AT_ONCE = 512
"""Tokens of a batch beyond which a CPU gains nothing, and loses what its caches held."""

_measured: WeakKeyDictionary[HookedModel, dict[Hashable, list[int]]] = WeakKeyDictionary()
"""Model → what was run → the peaks of one row and, where it mattered, of two."""


def rows_in_budget(
    model: HookedModel,
    run: Callable[[int], object],
    *,
    key: Hashable,
    budget: int,
    most: int,
    seq: int,
) -> int:
    """The most rows with which a computation stays within a budget, at least one.

    Args:
        model: The model that it runs.
        run: run(rows) does all of it that is ever held at once, on so many rows.
        key: What the memory of a row depends on; equal keys are measured once a model.
        budget: Bytes beyond what is held before it, such as the model's weights.
        most: More rows than these are of no use.
        seq: Tokens of a row.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> def run(rows):
        ...     model.forward([[1, 2, 3]] * rows)
        >>> rows_in_budget(model, run, key="an example", budget=1 << 30, most=5, seq=3)
        5

    Raises:
        ParameterError: If one row alone needs more.
    """
    peaks = _measured.setdefault(model, {}).setdefault(key, [])
    if not peaks:
        peaks.append(memory.needed_by(lambda: run(1)))  # as much as it takes: it is the least
    allowed = budget / MARGIN
    if peaks[0] > allowed:
        raise ParameterError(
            f"The memory budget is {_size(budget)}, but one prompt of {seq} tokens needs "
            f"{_size(peaks[0] * MARGIN)}. Give at least that with --memory."
        )
    if memory.on_cpu():
        most = min(most, max(1, TOKENS_AT_ONCE // seq))
    if most * peaks[0] <= allowed:
        return max(most, 1)
    if 2 * peaks[0] > allowed:
        return 1
    if len(peaks) < 2:
        peaks.append(memory.needed_by(lambda: run(2)))
    # The peak of one row has in it what is made once and kept, so half of two rows bounds a row's.
    return max(2, min(most, int(allowed / (peaks[1] / 2))))


def ceiling(budget: int) -> int:
    """The bytes up to which MLX may work ahead in a computation that begins now.

    Example:
        >>> ceiling(1000) >= 850
        True
    """
    return memory.held() + int(AHEAD * budget)


def _size(count: float) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
