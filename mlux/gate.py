"""The baseline gate: does the model do, prompt by prompt, what an experiment takes for granted?

An effect that is divided by the difference between two runs means nothing where there is no such
difference, or where it points the wrong way; and what a head does for a task cannot be seen on a
prompt whose task the model does not do. So an experiment declares what it takes for granted, and
before its sweep every prompt is run once, as it is:

    pair      the answer beats the wrong answer, and its lead is larger than in the corrupted prompt
    contrast  the answer beats the wrong answer
    answer    the answer is the most probable token

A prompt that fails is unsolved. Nothing else is computed for it, under any condition or control,
unless a run is asked to keep it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal, get_args

from mlux.errors import ExperimentError, ParameterError
from mlux.results import Metric

Kind = Literal["pair", "contrast", "answer"]
"""What an experiment takes for granted."""

ROLES: dict[Kind, tuple[str, ...]] = {
    "pair": ("corrupted", "answer", "wrong_answer"),
    "contrast": ("answer", "wrong_answer"),
    "answer": ("answer",),
}
"""The prompt roles that each kind needs."""

MIN_GAP = 1.0
"""Logits between a prompt and its corrupted form below which no effect is normalised.

One logit is a factor of e in the odds of answer against wrong answer. What is divided by it carries
the rounding of two logits in half precision, about 0.1 where logits are as large as 16: a tenth of
such an effect. Below one logit, rounding and every disturbance that has nothing to do with the task
soon outweigh what is measured.
"""

LEAST_SHARE = 0.5
"""A run in which a smaller share of the prompts is solved says so wherever it is shown."""

GAP = Metric(
    name="baseline_gap",
    unit="logits",
    better="higher",
    description="By how much the unedited model solves the prompt: the lead of the answer over the "
    "wrong answer, or over every other token, less that in the corrupted prompt if effects are "
    "divided by the difference.",
)
SOLVED = Metric(
    name="baseline_solved",
    unit="share",
    better="higher",
    description="1 where the unedited model does what the experiment takes for granted, else 0.",
)
METRICS = (GAP, SOLVED)
"""What a run with a gate stores of every trial."""


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """What a person asks of the gate; stored with the run's parameters.

    Attributes:
        min_gap: The least difference, in logits, of a `pair`.
        keep_unsolved: Whether prompts that fail are computed all the same.
    """

    min_gap: float = MIN_GAP
    keep_unsolved: bool = False

    def __post_init__(self) -> None:
        """Raises ParameterError for what is no gap."""
        if isinstance(self.min_gap, bool) or not isinstance(self.min_gap, int | float):
            raise ParameterError(f"min_gap is {self.min_gap!r}; give a number of logits.")
        if not (isfinite(self.min_gap) and self.min_gap >= 0):
            raise ParameterError(f"min_gap is {self.min_gap:g}; expected 0 or more logits.")
        if not isinstance(self.keep_unsolved, bool):
            raise ParameterError(f"keep_unsolved is {self.keep_unsolved!r}; give True or False.")


OPTIONS = tuple(asdict(GateOptions()))
"""Their names, which no option of an experiment with a gate may have."""


def split(params: Mapping[str, Any]) -> tuple[dict[str, Any], GateOptions]:
    """The options of an experiment and those of its gate, from what is stored of a run.

    Example:
        >>> split({"top_k": 5, "min_gap": 2.0})
        ({'top_k': 5}, GateOptions(min_gap=2.0, keep_unsolved=False))
    """
    own = {name: value for name, value in params.items() if name not in OPTIONS}
    return own, GateOptions(**{name: params[name] for name in OPTIONS if name in params})


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What the unedited model makes of a prompt.

    Attributes:
        gap: `baseline_gap`.
        unsolved: Why the prompt is not solved; None if it is.
    """

    gap: float
    unsolved: str | None


def judge(kind: Kind, lead: float, corrupted: float | None, *, min_gap: float) -> Baseline:
    """Whether a prompt is solved.

    Args:
        kind: What is taken for granted.
        lead: Logit of the answer minus that of the wrong answer, or of the best other token.
        corrupted: The same in the corrupted prompt; only of a `pair`.
        min_gap: The least difference between the two.

    Example:
        >>> judge("pair", -0.41, 3.20, min_gap=1.0).unsolved
        'the wrong answer is as probable as the answer or more (logit difference -0.41)'
    """
    gap = lead if corrupted is None else lead - corrupted
    reason = None
    if not lead > 0:
        other = "another token" if kind == "answer" else "the wrong answer"
        reason = f"{other} is as probable as the answer or more (logit difference {lead:.3g})"
    elif corrupted is not None and not gap > 0:
        reason = (
            f"the corrupted prompt favours the answer as much or more (logit difference "
            f"{corrupted:.3g} against {lead:.3g})"
        )
    elif corrupted is not None and not gap >= min_gap:
        reason = (
            f"prompt and corrupted prompt are too close (logit differences {lead:.3g} and "
            f"{corrupted:.3g}, less than {min_gap:g} apart)"
        )
    return Baseline(gap=gap, unsolved=reason)


def sentence(n_unsolved: int, n_prompts: int, *, kept: bool) -> str | None:
    """What a person has to know of the prompts that a run did not solve; None if there are none.

    Example:
        >>> sentence(2, 8, kept=False)
        '6 of 8 prompts are solved; the others are left out (--keep-unsolved keeps them).'
    """
    if not n_unsolved:
        return None
    n_solved = n_prompts - n_unsolved
    others = "are kept, as asked" if kept else "are left out (--keep-unsolved keeps them)"
    if n_solved < LEAST_SHARE * n_prompts:
        return (
            f"Only {n_solved} of {n_prompts} prompts are solved, fewer than {LEAST_SHARE:.0%}, so "
            f"this says little of how the model does the task; the others {others}."
        )
    return f"{n_solved} of {n_prompts} prompts are solved; the others {others}."


def require_fitting(kind: Kind | None, roles: Sequence[str], options: Sequence[str]) -> None:
    """Stops the declaration of a gate that an experiment cannot have.

    Raises:
        ExperimentError: If there is no such kind, it lacks a role that the kind needs, or an option
            has a name that is the gate's.
    """
    if kind is None:
        return
    if kind not in get_args(Kind):
        raise ExperimentError(f"gate is {kind!r}; expected {', '.join(get_args(Kind))}.")
    missing = [role for role in ROLES[kind] if role not in roles]
    if missing:
        raise ExperimentError(f"gate={kind!r} needs the role {missing[0]!r}. Add it to roles.")
    taken = [name for name in options if name in OPTIONS]
    if taken:
        raise ExperimentError(f"the option {taken[0]!r} is that of the gate. Rename it.")
