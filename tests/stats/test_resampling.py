"""The statistics are SciPy's, group by group."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import special
from scipy import stats as scipy_stats

from mlux.stats import benjamini_hochberg, mean_interval, normal, sign_flip_p

DATA = np.random.default_rng(0).normal(0.4, 1.0, (3, 20))


def test_intervals_are_those_of_scipy() -> None:
    low, high = mean_interval(DATA, seed=5)
    for group, ends in zip(DATA, zip(low, high, strict=True), strict=True):
        wanted = scipy_stats.bootstrap(
            (group,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(5)
        ).confidence_interval
        assert_allclose(ends, wanted, rtol=1e-12)


def test_a_group_does_not_depend_on_what_is_measured_beside_it() -> None:
    together = mean_interval(DATA, seed=1)
    alone = [mean_interval(DATA[i : i + 1], seed=1) for i in range(len(DATA))]
    assert_allclose(np.array(together).T, np.array(alone)[:, :, 0], rtol=1e-12)
    assert_allclose(sign_flip_p(DATA), [sign_flip_p(DATA[i : i + 1])[0] for i in range(3)])


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    low, high = mean_interval(rng.normal(2.0, 1.0, (300, 30)), n_resamples=999)
    covered = np.mean((low <= 2.0) & (high >= 2.0))
    assert 0.90 <= covered <= 0.98


@pytest.mark.parametrize(
    ("group", "ends"),
    [([0.1] * 5, (0.1, 0.1)), ([0.0, 0.0], (0.0, 0.0)), ([3.0], (np.nan, np.nan))],
)
def test_without_a_spread_there_is_nothing_to_draw(
    group: list[float], ends: tuple[float, float]
) -> None:
    found = mean_interval(np.array([group]))
    assert_allclose([end[0] for end in found], ends)


@pytest.mark.parametrize("n", [2, 7, 13])
def test_few_pairs_are_tested_exactly(n: int) -> None:
    group = DATA[0, :n]
    wanted = scipy_stats.permutation_test(
        (group,), np.sum, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert_allclose(sign_flip_p(group[None]), wanted)
    assert sign_flip_p(group[None, :1])[0] == 1.0


def test_many_pairs_are_tested_by_drawing_flips() -> None:
    drawn = sign_flip_p(DATA, n_resamples=50_000, seed=3)
    for group, p in zip(DATA, drawn, strict=True):
        wanted = scipy_stats.permutation_test(
            (group,), np.sum, permutation_type="samples", n_resamples=50_000, rng=7
        ).pvalue
        assert p == pytest.approx(wanted, abs=0.01)


def test_p_is_uniform_where_nothing_differs() -> None:
    p = sign_flip_p(np.random.default_rng(2).normal(0, 1, (400, 15)), n_resamples=999)
    assert scipy_stats.kstest(p, "uniform").pvalue > 0.01
    assert sign_flip_p(np.zeros((2, 20))).tolist() == [1.0, 1.0]


def test_a_sure_difference_has_the_smallest_p_there_is() -> None:
    assert sign_flip_p(np.ones((1, 6)))[0] == 2 / 2**6
    assert sign_flip_p(np.ones((1, 60)), n_resamples=999)[0] == 1 / 1000


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1) | st.just(float("nan")), min_size=1, max_size=20))
def test_correction_is_that_of_scipy_over_the_tests_that_were_made(p: list[float]) -> None:
    values = np.array(p)
    made = ~np.isnan(values)
    q = benjamini_hochberg(values)
    assert np.isnan(q[~made]).all()
    if made.any():
        assert_allclose(q[made], scipy_stats.false_discovery_control(values[made]))
        assert (q[made] >= values[made] * (1 - 1e-12)).all()


def test_the_normal_distribution_is_that_of_scipy() -> None:
    x = np.linspace(-8, 8, 1001)
    assert_allclose(normal.ndtr(x), special.ndtr(x), rtol=0, atol=1e-15)
    p = np.concatenate([np.linspace(0, 1, 1001), 10.0 ** -np.arange(2, 300, 7.0), [-1, 2, np.nan]])
    assert_allclose(normal.ndtri(p), special.ndtri(p), rtol=1e-13, atol=1e-13)
    assert np.isnan(normal.ndtr(np.nan))
