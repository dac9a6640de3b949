"""The range of every numeric option, in one table: Python and the command line check the same."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from mlux.errors import ParameterError


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that an option takes.

    Attributes:
        low: The smallest, itself allowed unless `open`.
        high: The largest, likewise; None for no largest.
        whole: Whether it has to be a whole number.
        open: Whether the two ends themselves are refused.
    """

    low: float
    high: float | None = None
    whole: bool = True
    open: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a number lies in the range; NaN and infinities never do."""
        high = math.inf if self.high is None else self.high
        if not (self.low <= value <= high) or value == math.inf:
            return False
        return not (self.open and (value == self.low or value == high))

    def __str__(self) -> str:
        """The range in words, as in `a whole number from 1 to 64`."""
        kind = "a whole number" if self.whole else "a number"
        low, high = (None if end is None else f"{end:,}" for end in (self.low, self.high))
        if self.open:
            return f"{kind} above {low}" + ("" if high is None else f" and below {high}")
        return f"{kind}, at least {low}" if high is None else f"{kind} from {low} to {high}"


_COUNT = Range(low=1, high=10**9)  # SQLite's driver counts in 32 bits

RANGES = {
    "seed": Range(low=0, high=2**31 - 1),  # what every generator takes
    "batch_size": Range(low=1, high=65_536),
    "memory": Range(low=1, high=2**62),  # bytes, in a column of 64 bits
    "max_failures": Range(low=0, high=10**9),
    "limit": _COUNT,
    "max_rows": _COUNT,
    "top": _COUNT,
    "n": Range(low=2, high=10**7),  # prompts of a plan
    "n_resamples": Range(low=1, high=10**7),
    "timeout": Range(low=0.001, high=86_400, whole=False),
    "margin": Range(low=0, whole=False, open=True),
    "level": Range(low=0, high=1, whole=False, open=True),
    "alpha": Range(low=0, high=1, whole=False, open=True),
    "power": Range(low=0, high=1, whole=False, open=True),
    # How to generate; see `mlux.engine.sampling.Options`.
    "max_tokens": Range(low=1),
    "temperature": Range(low=0, whole=False),
    "top_p": Range(low=0, high=1, whole=False),
    "top_k": Range(low=0),
    "min_p": Range(low=0, high=1, whole=False),
    "drawing_seed": Range(low=0, high=2**63 - 1),  # row i adds i to it, within MLX's 64 bits
    "kv_bits": Range(low=1, high=8),
    "kv_group_size": Range(low=1),
    "quantized_kv_start": Range(low=0),
    "max_kv_size": Range(low=1),
    "prefill_step_size": Range(low=1),
}
"""Option → the numbers that it takes."""


def check(name: str, value: Any, *, called: str = "") -> None:
    """Raises ParameterError unless a value is a number that this option takes.

    Args:
        name: A key of `RANGES`.
        value: What was given; None stands for the default and is always taken.
        called: What the person calls the option, where that is another name.

    Example:
        >>> check("seed", 3)
        >>> check("seed", 1.5)
        Traceback (most recent call last):
        mlux.errors.ParameterError: seed is 1.5; expected a whole number from 0 to 2,147,483,647.
    """
    expected = RANGES[name]
    if value is None:
        return
    kind = Integral if expected.whole else Real  # numpy's numbers are these too
    if isinstance(value, bool) or not isinstance(value, kind) or not expected.holds(value):
        raise ParameterError(f"{called or name} is {_shown(value)}; expected {expected}.")


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to write the longest
        return "a number of many digits"
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:59]}…"
