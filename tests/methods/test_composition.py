"""Signed sums of task vectors: the parallelogram of Todd et al. (2024), section 3.3."""

import mlx.core as mx
import pytest

from mlux.errors import UnknownNameError
from mlux.methods.composition import Composition, composed

TASKS = ["AC", "AD", "BC", "BD", "en-fr", "en", "fr"]


def test_the_fourth_corner_is_exactly_the_signed_sum() -> None:
    mx.random.seed(0)
    vectors = {(task, half): mx.random.normal((64,)) for task in TASKS for half in (0, 1)}
    sum_ = Composition.of("BD=AD+BC-AC")
    made = composed(vectors, {sum_.task: sum_.terms(TASKS)}, (0, 1))
    assert list(made) == [("BD", 0), ("BD", 1)]
    for half in (0, 1):
        by_hand = vectors["AD", half] + vectors["BC", half] - vectors["AC", half]
        assert mx.array_equal(made["BD", half], by_hand)


def test_a_hyphen_in_the_name_of_a_task_is_no_minus() -> None:
    assert Composition.of("AC=en-fr-AD+en-fr").terms(TASKS) == (
        (1, "en-fr"),
        (-1, "AD"),
        (1, "en-fr"),
    )
    assert Composition.of("AC=en-AD").terms(TASKS) == ((1, "en"), (-1, "AD"))


@pytest.mark.parametrize("entry", ["BD", "BD=", "=AC", "BD=AC+", "BD=AC--AD", "BD=-AC"])
def test_what_is_no_sum_is_said(entry: str) -> None:
    with pytest.raises(ValueError, match=r"write it as in task=a\+b or task=a\+b-c"):
        Composition.of(entry)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("BD=AD+BC-capital", r"No task named 'capital'"),
        ("BD=AD+en-frr", r"No task named 'frr'\. Did you mean 'fr'"),
        ("BDE=AD+BC-AC", r"No task named 'BDE'\. Did you mean 'BD'"),
    ],
)
def test_unknown_tasks_are_said_with_the_closest(entry: str, said: str) -> None:
    with pytest.raises(UnknownNameError, match=said):
        Composition.of(entry).terms(TASKS)
