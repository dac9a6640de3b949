"""A prompt that the model does not solve has no part in what is normalised."""

import pytest

from mlux.errors import ParameterError
from mlux.gate import GateOptions, judge, sentence


@pytest.mark.parametrize(
    ("lead", "corrupted", "reason"),
    [
        (-0.41, 3.20, "the wrong answer"),
        (1.0, 3.2, "favours the answer as much"),
        (3.0, 2.5, "too close"),
        (3.0, 2.0, None),
        (3.0, -2.0, None),
    ],
)
def test_a_pair_is_right_the_right_way_round_and_far_enough_apart(
    lead: float, corrupted: float, reason: str | None
) -> None:
    found = judge("pair", lead, corrupted, min_gap=1.0).unsolved
    assert (found is None) == (reason is None)
    assert reason is None or reason in str(found)


def test_without_a_corrupted_prompt_only_the_answer_has_to_be_right() -> None:
    assert judge("contrast", 0.01, None, min_gap=1.0).unsolved is None
    assert judge("answer", -0.01, None, min_gap=1.0).unsolved is not None


def test_a_share_below_half_is_said_in_one_line() -> None:
    assert sentence(0, 8, kept=False) is None
    assert "fewer than 50%" not in str(sentence(4, 8, kept=False))
    few = str(sentence(5, 8, kept=False))
    assert few.startswith("Only 3 of 8 prompts are solved, fewer than 50%")
    assert "\n" not in few


@pytest.mark.parametrize("gap", [-1.0, float("nan"), float("inf"), "1"])
def test_a_gap_is_a_number_of_logits(gap: object) -> None:
    with pytest.raises(ParameterError, match="min_gap is"):
        GateOptions(min_gap=gap)  # type: ignore[arg-type] # the fault under test
