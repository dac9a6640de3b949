"""Shares and other bounded numbers: intervals that can be true, tests that keep their size."""

import numpy as np
import pytest

from mlux import stats
from mlux.results import BOUNDS

YES_OR_NO = (0.0, 1.0)


@pytest.mark.parametrize("n", [2, 8, 12, 24])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_intervals_of_shares_have_a_width_and_stay_within_their_bounds(
    n: int, share: float
) -> None:
    a = (np.arange(n) < share * n).astype(float)[None]
    b = 1 - a
    for (low, high), ends in (
        (stats.mean_interval(a, bounds=YES_OR_NO), YES_OR_NO),
        (stats.paired_interval(a - b, bounds=YES_OR_NO), (-1, 1)),
        (stats.paired_interval(a - a, bounds=YES_OR_NO), (-1, 1)),
        (stats.difference_interval(a, b, bounds=YES_OR_NO), (-1, 1)),
        (stats.mean_interval(20 * a - 10, bounds=(-10, 10)), (-10, 10)),
    ):
        assert ends[0] <= low[0] < high[0] <= ends[1]


def test_eight_of_eight_is_what_wilson_says() -> None:
    from scipy.stats import binomtest

    for k in (0, 3, 8):
        low, high = stats.mean_interval((np.arange(8) < k).astype(float)[None], bounds=YES_OR_NO)
        expected = binomtest(k, 8).proportion_ci(method="wilson")
        assert (low[0], high[0]) == pytest.approx((expected.low, expected.high))


def test_numbers_between_the_bounds_or_outside_of_them_keep_their_bootstrap() -> None:
    rng = np.random.default_rng(0)
    for data in (rng.random((3, 9)), 3 * rng.random((3, 9))):
        np.testing.assert_array_equal(
            stats.mean_interval(data, bounds=YES_OR_NO), stats.mean_interval(data)
        )


def test_the_interval_of_a_share_near_an_end_covers_it() -> None:
    rng = np.random.default_rng(0)
    correct = (rng.random((2000, 12)) < 0.97).astype(float)
    low, high = stats.mean_interval(correct, bounds=YES_OR_NO, n_resamples=99)
    assert ((low <= 0.97) & (high >= 0.97)).mean() > 0.93  # the bootstrap alone: 0.29


def test_equal_answers_do_not_prove_what_so_few_cannot_show() -> None:
    equal = np.zeros((1, 24))
    for margin, proved in ((0.1, False), (0.116, False), (0.118, True)):
        assert (stats.tost_p(equal, margin, bounds=YES_OR_NO)[0] <= 0.05) == proved
    assert np.isnan(stats.tost_p(equal, 0.1)[0]), "without bounds nothing is known of the spread"
    assert stats.tost_p(equal + 0.1, 0.1)[0] == 1
    assert stats.tost_p(equal + 0.5, 0.1, bounds=YES_OR_NO)[0] == 1


@pytest.mark.parametrize("n", [12, 24, 50, 100])
@pytest.mark.parametrize("margin", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("less", [0.0, 0.1])
def test_shares_a_margin_apart_are_rarely_called_equivalent(
    n: int, margin: float, less: float
) -> None:
    rng = np.random.default_rng(1)
    u = rng.random((4000, n))
    data = (u < margin + less).astype(float) - (u > 1 - less)
    size = (stats.tost_p(data, margin, bounds=YES_OR_NO) <= 0.05).mean()
    assert size < 0.065  # at most 0.058 in truth, and four standard errors of 4,000 draws


def test_shares_that_are_equal_are_called_equivalent_where_prompts_are_enough() -> None:
    rng = np.random.default_rng(2)
    data = rng.choice([-1.0, 0.0, 1.0], p=[0.02, 0.96, 0.02], size=(500, 200))
    assert (stats.tost_p(data, 0.1, bounds=YES_OR_NO) <= 0.05).mean() > 0.95


def test_every_unit_that_is_bounded_has_two_different_ends() -> None:
    assert all(low < high for low, high in BOUNDS.values())
