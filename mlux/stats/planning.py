"""How many prompts a planned comparison needs, from the pairs of a pilot."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlux.errors import ParameterError
from mlux.limits import check as check_range
from mlux.stats.arrays import Floats
from mlux.stats.effects import cohens_dz

METHOD = "two-sided paired t test, noncentral t distribution (statsmodels TTestPower)"
_MOST = 10_000_000  # prompts


@dataclass(frozen=True, kw_only=True, slots=True)
class Power:
    """What a planned comparison can be expected to find.

    Attributes:
        n: The planned number of prompts.
        power: The chance that the test finds the effect.
        effect: Cohen's d_z that it is planned for.
        alpha: The level of the test.
        n_pilot: Pairs of the pilot that the effect was taken from; 0 if it was given.
        method: How it was computed; nothing is drawn at random, so there is no seed.
    """

    n: int
    power: float
    effect: float
    alpha: float
    n_pilot: int
    method: str = METHOD


def power(effect: float | Sequence[float] | Floats, n: int, *, alpha: float = 0.05) -> Power:
    """The chance that a comparison of n prompts finds an effect.

    Args:
        effect: Cohen's d_z, or the paired differences of a pilot, [n_pilot], to take it from.
        n: The planned number of prompts, at least 2.
        alpha: The level of the test.

    Raises:
        ParameterError: If n or alpha make no test, or a pilot has no spread.

    Source:
        Cohen, "Statistical power analysis for the behavioral sciences" (1988).

    Example:
        >>> round(power(0.5, 34).power, 2)
        0.81
    """
    size, n_pilot = _effect(effect)
    _check_alpha(alpha)
    check_range("n", n)
    return Power(n=n, power=_power(size, n, alpha), effect=size, alpha=alpha, n_pilot=n_pilot)


def prompts_needed(
    effect: float | Sequence[float] | Floats, *, power: float = 0.8, alpha: float = 0.05
) -> Power:
    """The smallest number of prompts with which a comparison finds an effect often enough.

    Args:
        effect: Cohen's d_z, or the paired differences of a pilot, [n_pilot], to take it from.
        power: The chance wanted.
        alpha: The level of the test.

    Raises:
        ParameterError: If no number of prompts is enough, or a pilot has no spread.

    Source:
        Cohen, "Statistical power analysis for the behavioral sciences" (1988).

    Example:
        >>> prompts_needed(0.5).n
        34
    """
    size, n_pilot = _effect(effect)
    _check_alpha(alpha)
    check_range("power", power)
    if not alpha < power < 1:
        raise ParameterError(f"power is {power!r}; give a chance between alpha and 1, such as 0.8.")
    low, high = 1, 2  # the first is too few
    while _power(size, high, alpha) < power:
        low, high = high, 2 * high
        if high > _MOST:
            raise ParameterError(
                f"An effect of d_z = {size:.3g} needs more than {_MOST:,} prompts. "
                "Look for a larger effect."
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(size, middle, alpha) >= power else (middle, high)
    found = _power(size, high, alpha)
    return Power(n=high, power=found, effect=size, alpha=alpha, n_pilot=n_pilot)


def _effect(effect: float | Sequence[float] | Floats) -> tuple[float, int]:
    """d_z, and how many pairs it was taken from."""
    given = np.asarray(effect, dtype=np.float64)
    if not given.ndim:
        size, n_pilot = float(given), 0
    else:
        size, n_pilot = float(cohens_dz(given[None])[0]), len(given)
    if not np.isfinite(size):
        raise ParameterError(
            f"A pilot of {n_pilot} pairs with no spread tells no effect size; "
            "give two different differences or more, or d_z itself."
        )
    return size, n_pilot


def _check_alpha(alpha: float) -> None:
    check_range("alpha", alpha)


def _power(effect: float, n: int, alpha: float) -> float:
    # Half a second to import, so only when asked for.
    from statsmodels.stats.power import TTestPower

    found = TTestPower().power(abs(effect), n, alpha, alternative="two-sided")
    return float(min(found, 1.0))
