"""Differences: seeds as replicates, families of heads, other prompts, and what is refused."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from synthetic import METRICS, make_model, make_prompts, make_spec, write_run

from mlux import compare, stats
from mlux.compare.differences import counts
from mlux.errors import MluxError, ParameterError, RunError, UnknownNameError
from mlux.prompts import Prompt, PromptSet
from mlux.results import Values
from mlux.store import FinishedTrial, Store

N, LAYERS, HEADS = 9, 3, 4


def score(seed: int, prompt: int, layer: int, head: int, shift: float) -> float:
    noise = ((31 * seed + 17 * prompt + 7 * layer + 5 * head) % 23) / 23
    return prompt / 5 + noise + shift * (1 + prompt / N) * (layer + head > 3)


def finished(seed: int, shift: float) -> Callable[[int], FinishedTrial]:
    def make(trial: int) -> FinishedTrial:
        grid = [[score(seed, trial, i, h, shift) for h in range(HEADS)] for i in range(LAYERS)]
        results = [Values(metric="head_score", values=grid, axes=("layer", "head"))]
        return FinishedTrial(trial=trial, results=results)

    return make


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "mlux.db", write=True) as opened:
        yield opened


@pytest.fixture
def replicates(store: Store) -> tuple[list[str], list[str]]:
    """Three seeds without and three with an effect."""
    sides = []
    for shift in (0.0, 0.8):
        model = make_model(f"toy{shift}", weights_hash=f"{int(shift * 10)}" * 64)
        specs = [make_spec(n_prompts=N, model=model, seed=seed) for seed in (1, 2, 3)]
        sides.append([write_run(store, spec, make=finished(spec.seed, shift)) for spec in specs])
    return sides[0], sides[1]


def values(seeds: tuple[int, ...], prompt: int, layer: int, shift: float) -> float:
    return mean(score(s, prompt, layer, h, shift) for s in seeds for h in range(HEADS))


def test_replicates_are_averaged_so_that_prompts_stay_the_unit(
    store: Store, replicates: tuple[list[str], list[str]]
) -> None:
    table = compare.diff(*replicates, metric="head_score", db=store)
    assert table["n"].tolist() == [N] * LAYERS
    for layer, row in table.iterrows():
        differences = [
            values((1, 2, 3), i, int(layer), 0.8) - values((1, 2, 3), i, int(layer), 0.0)
            for i in range(N)
        ]
        assert row["estimate"] == pytest.approx(mean(differences))
        assert row["p"] == pytest.approx(stats.sign_flip_p(np.array([differences]))[0])
        effect = stats.cohens_dz(np.array([differences]))[0]
        assert row["effect"] == pytest.approx(effect, nan_ok=True)
    assert table.attrs["a"] == ", ".join(replicates[0])


def test_seeds_may_be_the_unit(store: Store, replicates: tuple[list[str], list[str]]) -> None:
    first, second = replicates[0], replicates[1][:2]
    table = compare.diff(first, second, metric="head_score", unit="seed", db=store)
    assert table["n"].tolist() == [2] * LAYERS
    assert table["n_lost"].tolist() == [1] * LAYERS
    for layer, row in table.iterrows():
        differences = [
            mean(
                values((seed,), i, int(layer), 0.8) - values((seed,), i, int(layer), 0.0)
                for i in range(N)
            )
            for seed in (1, 2)
        ]
        assert row["estimate"] == pytest.approx(mean(differences))
    assert "paired by seed" in table.attrs["method"]


def test_a_mixed_model_takes_seeds_as_replicates_of_their_prompts(
    store: Store, replicates: tuple[list[str], list[str]]
) -> None:
    table = compare.mixed(*replicates, metric="head_score", by="layer", db=store)
    assert table["n"].tolist() == [N] * LAYERS
    assert table["n_values"].tolist() == [2 * 3 * N] * LAYERS
    numbers, is_b, prompts = [], [], []
    for b, shift in enumerate((0.0, 0.8)):
        for seed in (1, 2, 3):
            for prompt in range(N):
                numbers.append(values((seed,), prompt, 2, shift))
                is_b.append(b)
                prompts.append(prompt)
    wanted = stats.mixed_model(np.array(numbers), np.array(is_b), prompts)
    row = table.iloc[2]
    assert row["estimate"] == pytest.approx(wanted.estimate, rel=1e-6)
    assert row["sd_slope"] == pytest.approx(wanted.sd_slope, rel=1e-2, abs=1e-6)
    assert "MixedLM" in table.attrs["method"]
    assert_allclose(table["q"], stats.benjamini_hochberg(table["p"].to_numpy()))
    # Layer 0 has the same numbers on both sides of every prompt: there is nothing to estimate.
    assert table.loc[0, "estimate"] == pytest.approx(0.0, abs=1e-9)


def test_a_family_of_heads_is_corrected_by_max_t(
    store: Store, replicates: tuple[list[str], list[str]]
) -> None:
    (a, *_), (b, *_) = replicates
    options = {"metric": "head_score", "by": ["layer", "head"], "db": store}
    table = compare.diff(a, b, correction="max-t", **options)
    differences = np.array(
        [
            [score(1, i, layer, head, 0.8) - score(1, i, layer, head, 0.0) for i in range(N)]
            for layer in range(LAYERS)
            for head in range(HEADS)
        ]
    )
    assert_allclose(table["q"], stats.max_t(differences))
    assert table.attrs["correction"] == f"step-down max-T over {LAYERS * HEADS} tests"
    assert (table["q"] >= table["p"] - 1e-12).all()
    assert compare.diff(a, b, **options)["q"].notna().all()


def test_max_t_keeps_a_prompt_together_where_a_head_lacks_one(store: Store) -> None:
    def without(trial: int) -> FinishedTrial:
        whole = finished(1, 0.5)(trial)
        if trial:
            return whole
        grid = [[score(1, 0, 0, h, 0.5) for h in range(HEADS)]]
        return FinishedTrial(
            trial=0, results=[Values(metric="head_score", values=grid, axes=("layer", "head"))]
        )

    a = write_run(store, make_spec(n_prompts=N), make=finished(1, 0.0))
    b = write_run(store, make_spec(n_prompts=N), make=without)
    table = compare.diff(a, b, metric="head_score", correction="max-t", db=store)
    assert table["n"].tolist() == [N, N - 1, N - 1]
    assert table["n_lost"].tolist() == [0, 1, 1]
    assert table["q"].notna().all()


def test_a_difference_too_small_to_count_is_not_significant_however_sure(store: Store) -> None:
    def made(shift: float) -> Callable[[int], FinishedTrial]:
        def make(trial: int) -> FinishedTrial:
            curve = [1.0 + trial / 100, 1.0 + trial / 100 + shift, 1.0 + trial / 100 + 4e-9 * shift]
            return FinishedTrial(
                trial=trial, results=[Values(metric="logit_diff", values=curve, axes=("layer",))]
            )

        return make

    runs = [write_run(store, make_spec(n_prompts=N), make=made(shift)) for shift in (0.0, 0.5)]
    table = compare.diff(*runs, metric="logit_diff", db=store)
    assert (table["q"] < 0.05).tolist() == [False, True, True]
    assert counts(table, 0.05).tolist() == [False, True, False]
    assert_allclose(table["size"], [0, 0.5 / table["mean_b"].max(), 0], atol=1e-7)
    for margin, expected in ((0.6, False), (0.4, True)):
        table = compare.diff(*runs, metric="logit_diff", db=store, margin=margin)
        assert counts(table, 0.05).tolist() == [False, expected, False]
    table = compare.diff(*runs, metric="logit_diff", db=store, margin=1e-12)
    assert counts(table, 0.05).tolist() == [False, True, False], "below what float32 rounds away"


def test_no_difference_is_shown_by_two_one_sided_tests(
    store: Store, replicates: tuple[list[str], list[str]]
) -> None:
    (a, *_), (b, *_) = replicates
    table = compare.diff(a, b, metric="head_score", margin=0.3, db=store)
    pairs = compare.pairs(a, b, metric="head_score", by="layer", db=store)
    for layer, row in table.iterrows():
        differences = pairs.loc[pairs["layer"] == layer, "difference"].to_numpy()[None]
        assert row["p_equivalent"] == pytest.approx(stats.tost_p(differences, 0.3)[0], nan_ok=True)
    assert_allclose(
        table["q_equivalent"], stats.benjamini_hochberg(table["p_equivalent"].to_numpy())
    )
    assert "±0.3" in table.attrs["method"]


def test_pairs_are_what_differences_are_made_of(
    store: Store, replicates: tuple[list[str], list[str]]
) -> None:
    (a, *_), (b, *_) = replicates
    pairs = compare.pairs(a, b, metric="head_score", db=store)
    assert list(pairs.columns) == ["prompt", "a", "b", "difference"]
    assert pairs["prompt"].tolist() == [p.text for p in make_prompts(N).prompts]
    whole = compare.diff(a, b, metric="head_score", by=[], db=store)
    assert whole.loc[0, "estimate"] == pytest.approx(pairs["difference"].mean())
    assert stats.prompts_needed(pairs["difference"]).n_pilot == N


def other_prompts() -> PromptSet:
    return PromptSet(
        name="others", prompts=tuple(Prompt(text=f"other {i}") for i in range(6)), description=""
    )


def test_runs_on_different_prompts_are_refused_a_pair_and_compared_without(store: Store) -> None:
    a = write_run(store, make_spec(n_prompts=N), make=finished(1, 0.0))
    b = write_run(store, make_spec(prompts=other_prompts()), make=finished(2, 0.8))
    with pytest.raises(RunError, match=r"nothing can be paired\. Compare them unpaired: mlux"):
        compare.diff(a, b, metric="head_score", db=store)
    table = compare.diff(a, b, metric="head_score", paired=False, db=store, seed=2)
    assert list(table.columns) == [
        *(
            "layer",
            "n",
            "n_b",
            "mean_a",
            "mean_b",
            "estimate",
            "low",
            "high",
            "effect",
            "size",
            "p",
            "q",
        ),
    ]
    for layer, row in table.iterrows():
        first = np.array([[values((1,), i, int(layer), 0.0) for i in range(N)]])
        second = np.array([[values((2,), i, int(layer), 0.8) for i in range(6)]])
        assert (row["n"], row["n_b"]) == (N, 6)
        assert row["estimate"] == pytest.approx(second.mean() - first.mean())
        ends = np.ravel(stats.difference_interval(first, second, seed=2))
        assert_allclose([row["low"], row["high"]], ends, rtol=1e-6)
        assert row["effect"] == pytest.approx(stats.cohens_d(first, second)[0])
        assert row["p"] == stats.permutation_p(first, second, seed=2)[0]
    assert "permutation test" in table.attrs["method"]


def test_controls_are_left_out_unless_conditions_are_kept_apart(store: Store) -> None:
    conditions = [{"site": "head"}, {"site": "head", "control": "random"}]

    def made(shift: float) -> Callable[[int], FinishedTrial]:
        def make(trial: int) -> FinishedTrial:
            return replace(finished(1, shift if trial < N else 9.0)(trial % N), trial=trial)

        return make

    a = write_run(store, make_spec(n_prompts=N, conditions=conditions), make=made(0.0))
    b = write_run(store, make_spec(n_prompts=N, conditions=conditions), make=made(0.5))
    whole = compare.diff(a, b, metric="head_score", by=[], db=store)
    plain = [values((1,), i, layer, 0.0) for i in range(N) for layer in range(LAYERS)]
    assert whole.loc[0, "mean_a"] == pytest.approx(mean(plain))
    apart = compare.diff(a, b, metric="head_score", by="condition", db=store)
    assert apart["condition"].tolist() == ["site=head", "site=head, control=random"]
    assert apart.loc[1, "estimate"] == 0.0


def test_names_stay_categories_where_the_sides_have_different_ones(store: Store) -> None:
    first = write_run(store, make_spec(n_prompts=N, conditions=[{"x": "2"}, {"x": "1"}]))
    second = write_run(store, make_spec(n_prompts=N, conditions=[{"x": "1"}, {"x": "3"}]))
    table = compare.diff(first, second, metric="accuracy", by="condition", db=store)
    assert isinstance(table["condition"].dtype, pd.CategoricalDtype)
    assert sorted(table["condition"]) == ["x=1", "x=2", "x=3"]
    assert table.set_index("condition")["n"].to_dict() == {"x=1": N, "x=2": 0, "x=3": 0}


def test_what_is_not_comparable_is_refused_with_the_reason(store: Store) -> None:
    def run(**changes: object) -> str:
        return write_run(store, make_spec(n_prompts=N, **changes), make=finished(1, 0.0))

    plain = run()
    four = run(model=make_model(weights_hash="44" * 32, quant_bits=4, quant_group_size=64))
    eight = run(model=make_model(weights_hash="88" * 32, quant_bits=8, quant_group_size=64))
    metric = replace(METRICS[2], better="lower")
    turned = run(metrics=(*METRICS[:2], metric, METRICS[3]))
    described = run(metrics=(*METRICS[:2], replace(METRICS[2], description="New"), METRICS[3]))
    ask = {"metric": "head_score", "db": store}
    for call, complaint in (
        (
            lambda: compare.diff(plain, four, **ask),
            "toy is not quantised, .* is quantised to 4 bits",
        ),
        (lambda: compare.diff(four, eight, **ask), "to 4 bits .*, .* is quantised to 8 bits"),
        (lambda: compare.mixed(plain, four, **ask), "across_quantization=True"),
        (lambda: compare.pairs(plain, four, **ask), "may be due to that alone"),
        (lambda: compare.diff(plain, turned, **ask), "head_score does not mean the same in these"),
        (lambda: compare.diff([plain, run(seed=0)], four, **ask), "two have the same seed"),
        (
            lambda: compare.diff([plain, run(seed=1, params={"top_k": 3})], plain, **ask),
            "are no replicates: they differ in params",
        ),
        (
            lambda: compare.diff([plain, run(seed=1, prompts=other_prompts())], plain, **ask),
            "they differ in prompts",
        ),
    ):
        with pytest.raises(RunError, match=complaint):
            call()
    notes = compare.diff(plain, described, metric="head_score", db=store).attrs["notes"]
    assert any("head_score is described differently" in note for note in notes)
    assert compare.diff(four, eight, across_quantization=True, **ask)["n"].tolist() == [N] * LAYERS


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"correction": "bonferoni"}, UnknownNameError, "Known: bh, max-t"),
        ({"unit": "prompts"}, UnknownNameError, "Did you mean 'prompt'"),
        ({"paired": False, "correction": "max-t"}, ParameterError, "Unpaired runs have no differ"),
        ({"paired": False, "margin": 0.1}, ParameterError, "or pair them"),
        ({"margin": -1.0}, ParameterError, "margin is -1.0; expected a number above 0"),
        ({"level": 1.0}, ParameterError, "level is 1.0; expected a number above 0 and below 1"),
        ({"n_resamples": 0}, ParameterError, "n_resamples is 0; expected a whole number from 1"),
    ],
)
def test_options_that_make_no_test_are_refused(
    store: Store,
    replicates: tuple[list[str], list[str]],
    options: dict[str, object],
    error: type[MluxError],
    complaint: str,
) -> None:
    (a, *_), (b, *_) = replicates
    with pytest.raises(error, match=complaint):
        compare.diff(a, b, metric="head_score", db=store, **options)  # type: ignore[arg-type] # on purpose
