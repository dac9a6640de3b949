"""What the statistics promise, held against simulations; the seed is stated in each."""

import numpy as np
import pytest

from mlux import stats

SIMULATIONS = 1000


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Gamma(4), of mean 0 and a skewness of 1."""
    return (rng.gamma(4.0, 1.0, shape) - 4.0) / 2.0


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.normal(0.0, 1.0, shape)


@pytest.mark.parametrize("draw", [normal, skewed])
def test_a_paired_interval_covers_the_truth_in_95_of_100(draw: object) -> None:
    """1,000 simulations of 60 pairs, seed 20."""
    assert callable(draw)
    differences = 0.3 + draw(np.random.default_rng(20), (SIMULATIONS, 60))
    low, high = stats.mean_interval(differences, n_resamples=4999)
    assert 0.93 <= np.mean((low <= 0.3) & (high >= 0.3)) <= 0.97


def test_an_unpaired_interval_covers_the_truth_in_95_of_100() -> None:
    """1,000 simulations of 50 against 80 units of unequal spread, seed 21."""
    rng = np.random.default_rng(21)
    a, b = normal(rng, (SIMULATIONS, 50)), 0.3 + 2 * skewed(rng, (SIMULATIONS, 80))
    low, high = stats.difference_interval(a, b, n_resamples=4999)
    assert 0.93 <= np.mean((low <= 0.3) & (high >= 0.3)) <= 0.97


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n_seeds", [1, 2])
def test_the_interval_of_a_mixed_model_covers_the_truth_in_95_of_100(n_seeds: int) -> None:
    """1,000 simulations of 40 prompts with one or two seeds each, seed 22."""
    rng = np.random.default_rng(22)
    prompts = np.repeat(np.arange(40), 2 * n_seeds)
    is_b = np.tile(np.repeat([0.0, 1.0], n_seeds), 40)
    covered = 0
    for _ in range(SIMULATIONS):
        level, slope = rng.normal(0, 2, 40), rng.normal(0.3, 0.5, 40)
        noise = rng.normal(0, 0.5, len(prompts))
        found = stats.mixed_model(level[prompts] + slope[prompts] * is_b + noise, is_b, prompts)
        covered += found.low <= 0.3 <= found.high
    assert 0.93 <= covered / SIMULATIONS <= 0.97


def heads(rng: np.random.Generator, n_prompts: int, n_real: int) -> np.ndarray:
    """Differences of 5,000 heads, [5000, prompts]: the first ones differ, all share some noise."""
    shared = rng.normal(0.0, 0.7, (1, n_prompts))
    own = rng.normal(0.0, 0.7, (5000, n_prompts))
    own[:n_real] += 0.8
    return shared * rng.choice([-1.0, 0.0, 1.0], (5000, 1)) + own


def test_the_false_discovery_rate_holds_over_5000_heads() -> None:
    """20 simulations of 5,000 heads on 40 prompts, 500 of which differ, seed 23."""
    rng = np.random.default_rng(23)
    shares, found = [], []
    for _ in range(20):
        q = stats.benjamini_hochberg(stats.sign_flip_p(heads(rng, 40, 500), n_resamples=4999))
        called = q <= 0.05
        shares.append(called[500:].sum() / max(1, called.sum()))
        found.append(called[:500].mean())
    assert np.mean(shares) <= 0.05
    assert np.mean(shares) > 0.005  # it is no stricter than it promises, either
    assert np.mean(found) > 0.5


def test_max_t_makes_a_false_discovery_in_5_of_100_families() -> None:
    """200 simulations of 100 heads on 20 prompts, of which 5 differ, seed 24."""
    rng = np.random.default_rng(24)
    wrong = found = 0
    for _ in range(200):
        p = stats.max_t(heads(rng, 20, 5)[:100], n_resamples=499)
        wrong += bool((p[5:] <= 0.05).any())
        found += int((p[:5] <= 0.05).sum())
    assert wrong / 200 <= 0.08  # 5 % and two standard errors
    assert found > 50


def test_max_t_over_5000_heads_finds_nothing_where_nothing_is() -> None:
    """One family of 5,000 heads on 40 prompts without any difference, seed 25."""
    p = stats.max_t(heads(np.random.default_rng(25), 40, 0), n_resamples=999)
    assert p.min() > 0.05


def brute_force_max_t(data: np.ndarray) -> np.ndarray:
    """Step-down max-T by its definition, one flip and one group at a time."""
    n_groups, n = data.shape

    def squared_t(group: np.ndarray) -> float:
        return float(group.sum() ** 2 / (group**2).sum())

    observed = [squared_t(group) for group in data]
    order = sorted(range(n_groups), key=lambda group: -observed[group])
    flips = [[1 if flip >> i & 1 else -1 for i in range(n)] for flip in range(2**n)]
    p, last = np.empty(n_groups), 0.0
    for place, group in enumerate(order):
        hits = 0
        for signs in flips:
            largest = max(squared_t(data[other] * signs) for other in order[place:])
            hits += largest >= observed[group] * (1 - 1e-12)
        last = max(last, hits / 2**n)
        p[group] = last
    return p


def test_max_t_is_what_brute_force_finds() -> None:
    """Eight pairs of four groups, each of the 256 flips, seed 26."""
    rng = np.random.default_rng(26)
    data = rng.normal(0, 1, (4, 8)) + np.array([[1.5], [0.0], [0.7], [0.0]])
    assert np.abs(stats.max_t(data) - brute_force_max_t(data)).max() < 1e-12
    assert (stats.max_t(data) >= stats.sign_flip_p(data) - 1e-12).all()


def test_max_t_leaves_out_what_a_group_lacks() -> None:
    data = np.array([[3.0, 4.0, 5.0, 3.5, 4.5, 4.2], [np.nan] * 6, [1.0, np.nan, 2.0, -1.0, 0, 0]])
    p = stats.max_t(data)
    assert np.isnan(p[1])
    assert p[0] == 2 / 2**6
    assert p[2] >= stats.sign_flip_p(data[2:, [0, 2, 3, 4, 5]])[0]
    assert np.isnan(stats.max_t(data[1:2])).all()
