"""Two samples: every number of `mlux.stats` against SciPy or statsmodels called directly."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats as scipy_stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from mlux import stats
from mlux.errors import ParameterError

RNG = np.random.default_rng(11)
A = RNG.normal(0.0, 1.0, (4, 9))
B = RNG.normal(0.7, 1.5, (4, 12))
PAIRS = RNG.gamma(2.0, 1.0, (4, 30)) - 1.5


def mean_difference(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(b, axis=axis) - np.mean(a, axis=axis)


def test_unpaired_intervals_are_those_of_scipy() -> None:
    low, high = stats.difference_interval(A, B, seed=3, level=0.9)
    for a, b, *ends in zip(A, B, low, high, strict=True):
        wanted = scipy_stats.bootstrap(
            (a, b), mean_difference, confidence_level=0.9, rng=np.random.default_rng(3)
        ).confidence_interval
        assert_allclose(ends, wanted, rtol=1e-9)


def test_ties_of_counted_data_are_ties_whatever_their_scale() -> None:
    counts = RNG.integers(0, 2, (3, 40)).astype(float)
    for group, *ends in zip(counts, *stats.mean_interval(counts), strict=True):
        wanted = scipy_stats.bootstrap((group,), np.mean, rng=np.random.default_rng(0))
        assert_allclose(ends, wanted.confidence_interval, rtol=1e-12)
    # In tenths, where sums round, rounding must not decide on which side a tie falls.
    whole, tenths = stats.mean_interval(counts), stats.mean_interval(counts * 0.1)
    assert_allclose(np.array(tenths), np.array(whole) * 0.1, rtol=1e-9)


@pytest.mark.parametrize("sizes", [(3, 4), (6, 5), (2, 5)])
def test_few_units_are_relabelled_in_every_way(sizes: tuple[int, int]) -> None:
    a, b = A[:, : sizes[0]], B[:, : sizes[1]]
    for first, second, p in zip(a, b, stats.permutation_p(a, b), strict=True):
        wanted = scipy_stats.permutation_test((first, second), mean_difference, n_resamples=np.inf)
        assert p == pytest.approx(wanted.pvalue)


def test_many_units_are_relabelled_by_drawing() -> None:
    drawn = stats.permutation_p(A, B, n_resamples=30_000, seed=5)
    for a, b, p in zip(A, B, drawn, strict=True):
        wanted = scipy_stats.permutation_test(
            (a, b), mean_difference, n_resamples=30_000, rng=8, vectorized=True
        )
        assert p == pytest.approx(wanted.pvalue, abs=0.01)


def test_effect_sizes_are_what_their_definitions_say() -> None:
    d = stats.cohens_d(A, B)
    t = scipy_stats.ttest_ind(B, A, axis=1).statistic
    assert_allclose(d, t * np.sqrt(1 / 9 + 1 / 12))
    assert_allclose(
        stats.cohens_dz(PAIRS), scipy_stats.ttest_1samp(PAIRS, 0, axis=1).statistic / np.sqrt(30)
    )
    wins = [np.sign(b - a) for a, b in product(A[0], B[0])]
    assert stats.cliffs_delta(A, B)[0] == pytest.approx(np.mean(wins))
    counted = [np.array([[1.0, 1.0, 2.0]]), np.array([[1.0, 2.0, 2.0, 0.0]])]
    wins = [np.sign(b - a) for a, b in product(*(sample[0] for sample in counted))]
    assert stats.cliffs_delta(*counted)[0] == pytest.approx(np.mean(wins))


def test_without_spread_there_is_no_effect_size() -> None:
    assert np.isnan(stats.cohens_dz(np.full((1, 5), 0.1))).all()
    assert np.isnan(stats.cohens_dz(np.array([[1.0]]))).all()
    assert np.isnan(stats.cohens_d(np.full((1, 3), 0.1), np.full((1, 3), 0.1))).all()


@pytest.mark.parametrize("margin", [0.2, 0.6, 2.0])
def test_equivalence_is_that_of_statsmodels(margin: float) -> None:
    for group, p in zip(PAIRS, stats.tost_p(PAIRS, margin), strict=True):
        wanted, _, _ = ttost_paired(group, np.zeros(30), -margin, margin)
        assert p == pytest.approx(wanted)


def test_equal_runs_have_no_spread_to_test_with_and_need_a_margin() -> None:
    assert np.isnan(stats.tost_p(np.zeros((1, 5)), 0.1)[0])
    assert stats.tost_p(np.full((1, 5), 0.2), 0.1)[0] == 1.0
    assert np.isnan(stats.tost_p(np.zeros((1, 1)), 0.1)[0])
    for margin in (0.0, -1.0, float("nan")):
        with pytest.raises(ParameterError, match="give the smallest difference that would matter"):
            stats.tost_p(PAIRS, margin)


@pytest.mark.parametrize(("effect", "n"), [(0.3, 50), (-0.5, 34), (1.2, 8)])
def test_power_is_that_of_statsmodels_and_of_simulation(effect: float, n: int) -> None:
    found = stats.power(effect, n)
    assert found.power == pytest.approx(TTestPower().power(abs(effect), n, 0.05))
    drawn = np.random.default_rng(4).normal(effect, 1.0, (20_000, n))
    hits = scipy_stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05
    assert hits.mean() == pytest.approx(found.power, abs=0.01)


def test_the_prompts_needed_are_the_fewest_that_are_enough() -> None:
    pilot = np.array([0.1, 0.5, 0.2, -0.3, 0.4, 0.2])
    found = stats.prompts_needed(pilot, power=0.9)
    assert found.power >= 0.9 > stats.power(pilot, found.n - 1).power
    assert found.n_pilot == 6
    assert found.effect == pytest.approx(pilot.mean() / pilot.std(ddof=1))
    assert "TTestPower" in found.method


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: stats.power(0.5, 1), "n is 1; expected a whole number from 2"),
        (
            lambda: stats.power(0.5, 10, alpha=2.0),
            "alpha is .*; expected a number above 0 and below 1",
        ),
        (lambda: stats.power([0.1, 0.1], 10), "2 pairs with no spread tells no effect size"),
        (lambda: stats.prompts_needed(1e-6), "Look for a larger effect"),
        (lambda: stats.prompts_needed(0.5, power=0.01), "chance between alpha and 1"),
        (lambda: stats.paired({"x": 1.0}, {"y": 1.0}), "none in common.*stats.unpaired"),
        (lambda: stats.paired(pd.Series([1.0, 2.0], ["x", "x"]), {"x": 1.0}), "1 units of a occur"),
        (lambda: stats.unpaired([], [1.0]), "a has 0 units and b has 1"),
        (lambda: stats.mixed_model(np.ones(4), np.array([0, 1, 0, 1]), "xxyy"), "2 prompts"),
        (lambda: stats.mixed_model(np.arange(3.0), np.ones(3), "xyz"), "both 0 and 1"),
        (lambda: stats.mixed_model(np.ones(6), np.tile([0, 1], 3), "xxyyzz"), "not all equal"),
        (lambda: stats.mixed_model(np.ones(5), np.tile([0, 1], 3), "xxyyzz"), "5 values, 6 treatm"),
    ],
)
def test_what_makes_no_test_is_refused(call: object, complaint: str) -> None:
    assert callable(call)
    with pytest.raises(ParameterError, match=complaint):
        call()


def test_pairs_are_found_by_their_unit_and_what_is_lost_is_counted() -> None:
    index = [f"prompt {i}" for i in range(12)]
    a = pd.Series(B[0], index)
    b = pd.Series(B[1], index).sample(frac=1.0, random_state=0).drop(["prompt 3"])
    found = stats.paired(a, b, seed=2)
    difference = (b - a).reindex(index).dropna().to_numpy()
    assert (found.n, found.n_lost, found.seed) == (11, 1, 2)
    assert found.estimate == pytest.approx(difference.mean())
    low, high = stats.mean_interval(difference[None], seed=2)
    assert (found.low, found.high) == (low[0], high[0])
    assert found.p == stats.sign_flip_p(difference[None], seed=2)[0]
    assert found.effect == stats.cohens_dz(difference[None])[0]
    assert "sign-flip" in found.method


def test_unpaired_samples_carry_both_sizes() -> None:
    found = stats.unpaired(A[0], B[0], seed=4)
    assert (found.n, found.n_b, found.seed, found.n_resamples) == (9, 12, 4, 9999)
    assert found.p == stats.permutation_p(A[:1], B[:1], seed=4)[0]
    assert found.effect == stats.cohens_d(A[:1], B[:1])[0]


def trials(n_seeds: int) -> pd.DataFrame:
    rng = np.random.default_rng(6)
    rows = [
        (prompt, is_b, level + (0.8 + slope) * is_b + rng.normal(0, 0.5))
        for prompt in range(25)
        for level, slope in [(rng.normal(0, 2.0), rng.normal(0, 0.6))]
        for is_b in (0, 1)
        for _ in range(n_seeds)
    ]
    return pd.DataFrame(rows, columns=["prompt", "is_b", "value"])


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_the_mixed_model_is_that_of_statsmodels(n_seeds: int) -> None:
    frame = trials(n_seeds)
    wanted = MixedLM.from_formula(
        "value ~ is_b", frame, groups="prompt", re_formula="1" if n_seeds == 1 else "is_b"
    ).fit()
    found = stats.mixed_model(frame["value"].to_numpy(), frame["is_b"], frame["prompt"])
    assert found.converged
    assert found.estimate == pytest.approx(wanted.fe_params["is_b"], rel=1e-4)
    assert_allclose([found.low, found.high], wanted.conf_int().loc["is_b"], rtol=1e-3)
    assert found.p == pytest.approx(wanted.pvalues["is_b"], rel=0.02)
    assert (found.n, found.n_values) == (25, len(frame))
    assert np.isnan(found.sd_slope) == (n_seeds == 1)


def test_with_one_value_each_the_mixed_model_is_the_paired_t_test() -> None:
    frame = trials(1)
    wide = frame.pivot(index="prompt", columns="is_b", values="value")
    found = stats.mixed_model(frame["value"].to_numpy(), frame["is_b"], frame["prompt"])
    difference = wide[1] - wide[0]
    assert found.estimate == pytest.approx(difference.mean())
    assert (found.high - found.estimate) / 1.959964 == pytest.approx(difference.sem(), rel=1e-4)


def test_controls_are_the_null_distribution() -> None:
    rng = np.random.default_rng(9)
    controls = rng.normal(0, 1, (3, 99))
    p = stats.null_p(np.array([5.0, 0.0, -5.0]), controls)
    assert_allclose(p[[0, 2]], 2 / 100)
    assert p[1] > 0.5
    # Drawn from the same distribution, an effect is one more control.
    many = rng.normal(0, 1, (4000, 40))
    assert np.mean(stats.null_p(many[:, 0], many[:, 1:]) <= 0.05) == pytest.approx(0.05, abs=0.01)
    assert np.isnan(stats.null_p(np.array([1.0]), np.full((1, 2), np.nan))[0])
    assert stats.null_p(np.array([9.0]), np.array([[1.0, np.nan, 2.0]]))[0] == pytest.approx(2 / 3)


def test_numbers_that_are_not_finite_are_not_tested() -> None:
    data = np.array([[1.0, np.inf, 2.0], [1.0, 2.0, 3.0]])
    for found in (*stats.mean_interval(data), stats.sign_flip_p(data), stats.tost_p(data, 5.0)):
        assert np.isnan(found[0])
        assert np.isfinite(found[1])
    assert np.isnan(stats.permutation_p(data, data)[0])
    assert np.isnan(stats.difference_interval(data, data)[0][0])
