"""How many rows a batch may have within a budget of bytes, measured, and how many run at once.

What a batched computation holds at once grows by the same bytes with every row, since every array
in it has the rows as an axis or has nothing to do with them. So n rows hold no more than n times
the peak of one row, and the peak of two rows says how much of that is paid only once.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from mlux.engine import HookedModel, memory
from mlux.engine.lanes import most
from mlux.errors import ParameterError

MARGIN = 1.08
"""On what was measured."""

AHEAD = 0.85
"""The part of the budget up to which MLX may work ahead; see `memory.below`."""

TOKENS_AT_ONCE = 512
"""Tokens of a batch beyond which a CPU gains nothing, and loses what its caches held."""

_measured: WeakKeyDictionary[HookedModel, dict[Hashable, list[int]]] = WeakKeyDictionary()
"""Model → what was run → the peaks of one row and, where it mattered, of two."""


class Batches(NamedTuple):
    """How a computation is cut up.

    Attributes:
        rows: Of a batch.
        lanes: Batches side by side; see `engine.lanes`.
    """

    rows: int
    lanes: int


def batches_in_budget(
    model: HookedModel,
    run: Callable[[int], object],
    *,
    key: Hashable,
    budget: int,
    groups: Sequence[int],
    seq: int,
    computed: int | None = None,
) -> Batches:
    """The most rows, and then lanes, with which a computation stays within a budget.

    Args:
        model: The model that it runs.
        run: run(rows) does all of it that is ever held at once in one lane, on so many rows.
        key: What the memory of a row depends on; equal keys are measured once a model.
        budget: Bytes beyond what is held before it, such as the model's weights.
        groups: How many rows there are to run, of each sort that can share a batch.
        seq: Tokens of a prompt.
        computed: How many of them each row computes; by default all.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> def run(rows):
        ...     model.forward([[1, 2, 3]] * rows)
        >>> batches_in_budget(
        ...     model, run, key="an example", budget=1 << 30, groups=[5], seq=3
        ... )
        Batches(rows=5, lanes=1)

    Raises:
        ParameterError: If one row alone needs more.
    """
    peaks = _measured.setdefault(model, {}).setdefault(key, [])
    if not peaks:
        _ = model.anatomy  # learnt now, or learning it would be measured
        peaks.append(memory.needed_by(lambda: run(1)))  # as much as it takes: it is the least
    allowed = budget / MARGIN
    if peaks[0] > allowed:
        raise ParameterError(
            f"The memory budget is {_size(budget)}, but one prompt of {seq} tokens needs "
            f"{_size(peaks[0] * MARGIN, floor=False)}. Give at least that with --memory."
        )

    def row() -> float:
        """Bytes that bound what each of several rows takes."""
        # The peak of one row has in it what is made once and kept, so half of two rows is less.
        if len(peaks) < 2:
            peaks.append(memory.needed_by(lambda: run(2)))
        return min(peaks[0], peaks[1] / 2)

    rows = max(groups)
    if memory.on_cpu():
        rows = min(rows, max(1, TOKENS_AT_ONCE // (computed or seq)))
    if 2 * peaks[0] > allowed:
        return Batches(1, 1)
    if rows * peaks[0] > allowed:
        rows = max(2, min(rows, int(allowed / row())))
    lanes = min(most(), sum(-(-group // rows) for group in groups))
    if lanes > 1 and lanes * rows * peaks[0] > allowed:
        lanes = max(1, min(lanes, int(allowed / (rows * row()))))
    return Batches(rows, lanes)


def ceiling(budget: int) -> int:
    """The bytes up to which MLX may work ahead in a computation that begins now.

    Example:
        >>> ceiling(1000) >= 850
        True
    """
    return memory.held() + int(AHEAD * budget)


def _size(count: float, *, floor: bool = True) -> str:
    """Bytes in words; what is needed is rounded up, so that it never reads like what is given."""
    unit, name = (2**20, "MiB") if count >= 2**20 else (2**10, "KiB")
    tenths = 10 * count / unit
    return f"{(math.floor(tenths) if floor else math.ceil(tenths)) / 10:.1f} {name}"
