"""Comparing runs: the same numbers as plain loops over what the experiment yielded."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from synthetic import (
    METRICS,
    N_HEADS,
    N_LAYERS,
    make_finished,
    make_model,
    make_prompts,
    make_spec,
    number,
    token_text,
    work,
    write_run,
)

from mlux import compare
from mlux.errors import ParameterError, RunError, UnknownNameError
from mlux.prompts import Prompt
from mlux.results import Values
from mlux.stats import benjamini_hochberg, mean_interval, sign_flip_p
from mlux.store import FinishedTrial, RunWriter, Store, create_run

N = 6
SHIFTS = {"a": 0.0, "b": 0.25}


def noisy(trial: int, *, shift: float) -> FinishedTrial:
    return make_finished(trial, shift=shift * (1 + math.cos(3.0 * trial)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "mlux.db", write=True) as opened:
        yield opened


@pytest.fixture
def pair(store: Store) -> tuple[str, str]:
    """Two runs on two models, of which the second measures more."""
    quantised = make_model(weights_hash="01" * 32, quant_bits=4, quant_group_size=64)
    first = write_run(store, make_spec(n_prompts=N))
    second = write_run(
        store,
        make_spec(n_prompts=N, model=quantised, tags={"bits": "4"}),
        make=lambda trial: noisy(trial, shift=0.25),
    )
    return first, second


def values(trial: int, metric: str, shift: float) -> list[tuple[int, int, int, float]]:
    return [
        row
        for result in noisy(trial, shift=shift).results
        if isinstance(result, Values) and result.metric == metric
        for row in result.rows()
    ]


def test_runs_are_rows(store: Store, pair: tuple[str, str]) -> None:
    frame = compare.runs(store)
    assert frame["run"].tolist() == [pair[1], pair[0]]
    assert frame["model"].tolist() == ["toy-4bit", "toy"]
    assert isinstance(frame["model"].dtype, pd.CategoricalDtype)
    assert isinstance(frame["created"].dtype, pd.DatetimeTZDtype)
    assert frame["seconds"].dtype == np.float64
    assert frame["params.top_k"].tolist() == [2, 2]
    assert frame["params.layers"].tolist() == [[0, 2], [0, 2]]
    assert frame["tags.bits"].fillna("none").tolist() == ["4", "none"]
    assert compare.runs(store, tag="bits", limit=1)["run"].tolist() == [pair[1]]


def test_no_runs_are_a_frame_of_the_same_columns(store: Store) -> None:
    empty = compare.runs(store)
    assert len(empty) == 0
    write_run(store)
    assert list(compare.runs(store).columns)[: len(empty.columns)] == list(empty.columns)
    assert empty["created"].dtype == compare.runs(store)["created"].dtype


def test_layer_results_are_every_number_once(store: Store, pair: tuple[str, str]) -> None:
    frame = compare.layer_results(pair, db=store)
    assert list(frame.columns) == [
        *("run", "experiment", "model", "prompt", "condition", "metric"),
        *("layer", "head", "position", "value"),
    ]
    wanted = []
    prompts = make_prompts(N).prompts
    for (label, shift), model in zip(SHIFTS.items(), ("toy", "toy-4bit"), strict=True):
        uid = pair["ab".index(label)]
        for trial in range(N):
            for metric in METRICS:
                for layer, head, position, value in values(trial, metric.name, shift):
                    place = tuple(pd.NA if i < 0 else i for i in (layer, head, position))
                    key = (uid, "toy_lens", model, prompts[trial].text, "", metric.name)
                    wanted.append((*key, *place, value))
    found = frame.astype(object).itertuples(index=False, name=None)
    assert sorted(map(repr, found)) == sorted(map(repr, wanted))
    assert str(frame["layer"].dtype) == "Int64"
    assert isinstance(frame["prompt"].dtype, pd.CategoricalDtype)


def test_one_metric_and_one_run(store: Store, pair: tuple[str, str]) -> None:
    frame = compare.layer_results(pair[0], "accuracy", db=store)
    assert frame["value"].tolist() == [0.0, 1.0] * (N // 2)
    assert frame["layer"].isna().all()


def test_a_run_may_be_named_in_every_way(store: Store, pair: tuple[str, str]) -> None:
    wanted = compare.layer_results(pair[1], db=store)
    for name in ("latest", "latest:toy_lens", pair[1][:7], SimpleNamespace(uid=pair[1])):
        pd.testing.assert_frame_equal(compare.layer_results(name, db=store), wanted)
    pd.testing.assert_frame_equal(compare.layer_results(["latest"], db=store), wanted)
    assert store.path is not None
    pd.testing.assert_frame_equal(compare.layer_results(pair[1], db=store.path), wanted)


def test_the_default_database(
    store: Store, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLUX_DB", store.location)
    assert len(compare.runs()) == 2
    assert len(compare.diff(*pair, metric="logit_diff", across_quantization=True)) == N_LAYERS


def test_pivot_is_the_mean_side_by_side(store: Store, pair: tuple[str, str]) -> None:
    table = compare.pivot(pair, metric="logit_diff", db=store)
    assert table.index.name == "layer"
    assert list(table.columns) == list(pair)
    for uid, shift in zip(pair, SHIFTS.values(), strict=True):
        for layer in range(N_LAYERS):
            wanted = mean(values(t, "logit_diff", shift)[layer][3] for t in range(N))
            assert table.loc[layer, uid] == pytest.approx(wanted)


@pytest.mark.parametrize(
    "by",
    [["layer", "head"], ["prompt"], ["model"], ["head", "condition", "experiment"], ["position"]],
)
def test_pivot_is_what_pandas_makes_of_the_results(
    store: Store, pair: tuple[str, str], by: list[str]
) -> None:
    frame = compare.layer_results(pair, "head_score", db=store)
    wanted = frame.groupby([*by, "run"], observed=True, dropna=False)["value"].mean().unstack("run")
    found = compare.pivot(list(pair), metric="head_score", by=by, db=store)
    assert_allclose(found.to_numpy(), wanted[list(pair)].to_numpy())
    assert found.index.names == by


def test_pivot_of_prompts_with_the_same_text_takes_them_together(store: Store) -> None:
    prompts = tuple(Prompt(text="The capital is", answer=f"city {i}") for i in range(3))
    same = replace(make_prompts(), prompts=prompts)
    uid = write_run(store, make_spec(prompts=same))
    table = compare.pivot(uid, metric="accuracy", by="prompt", db=store)
    assert table[uid].tolist() == [pytest.approx(1 / 3)]


@pytest.mark.parametrize("by", [["layer"], ["layer", "head"], ["prompt"], []])
def test_diff_is_paired_by_prompt(store: Store, pair: tuple[str, str], by: list[str]) -> None:
    table = compare.diff(
        *pair, metric="head_score", by=by, db=store, seed=3, across_quantization=True
    )
    assert list(table.columns) == [
        *by,
        *("n", "n_lost", "mean_a", "mean_b", "estimate", "low", "high", "effect", "size", "p", "q"),
    ]
    prompts = [prompt.text for prompt in make_prompts(N).prompts]
    ps = []
    for _, row in table.iterrows():
        first, second = (
            [
                mean(cells)
                for t in range(N)
                if (
                    cells := [
                        value
                        for layer, head, _, value in values(t, "head_score", shift)
                        if all(
                            row[name] == {"layer": layer, "head": head, "prompt": prompts[t]}[name]
                            for name in by
                        )
                    ]
                )
            ]
            for shift in SHIFTS.values()
        )
        difference = np.array([second]) - np.array([first])
        assert (row["n"], row["n_lost"]) == (len(first), 0)
        assert row["mean_a"] == pytest.approx(mean(first))
        assert row["mean_b"] == pytest.approx(mean(second))
        assert row["estimate"] == pytest.approx(difference.mean())
        low, high = mean_interval(difference, seed=3)
        # BCa counts resamples below the mean, where rounding decides ties.
        assert_allclose([row["low"], row["high"]], [low[0], high[0]], rtol=1e-3)
        ps.append(sign_flip_p(difference, seed=3)[0])
        assert row["p"] == pytest.approx(ps[-1])
    assert len(table) == math.prod({"layer": N_LAYERS, "head": N_HEADS, "prompt": N}[b] for b in by)
    assert_allclose(table["q"], benjamini_hochberg(np.array(ps)))


def test_diff_says_what_to_keep_in_mind(store: Store, pair: tuple[str, str]) -> None:
    table = compare.diff(
        *pair, metric="logit_diff", by=["model", "layer"], db=store, across_quantization=True
    )
    assert table["model"].unique().tolist() == ["toy → toy-4bit"]
    assert table.attrs["notes"] == [
        "toy is not quantised, toy-4bit is quantised to 4 bits (groups of 64): "
        "part of a difference may be due to that.",
        "6 units are few: a BCa interval then covers less than it says.",
    ]
    assert (table.attrs["a"], table.attrs["b"]) == pair


def test_a_run_does_not_differ_from_itself(store: Store, pair: tuple[str, str]) -> None:
    table = compare.diff(pair[0], pair[0], metric="head_score", by=["layer", "head"], db=store)
    for column in ("estimate", "low", "high"):
        assert table[column].tolist() == [0.0] * len(table)
    assert table["p"].tolist() == table["q"].tolist() == [1.0] * len(table)
    assert all("few" in note for note in table.attrs["notes"])


def test_prompts_that_only_one_run_has_are_counted_and_left_out(store: Store) -> None:
    first = write_run(store, make_spec(n_prompts=5))
    second = create_run(store, make_spec(n_prompts=8))
    writer = RunWriter(store, second, token_text)
    writer.start(make_spec().environment)
    # Trial 2 is not done yet, so of the prompts 0 to 7 the runs share 0, 1, 3 and 4.
    writer.write([make_finished(trial, shift=1.0) for trial in (0, 1, 3, 4, 5, 6, 7)])
    table = compare.diff(first, second, metric="logit_diff", db=store)
    assert table["n"].tolist() == [4] * N_LAYERS
    assert table["n_lost"].tolist() == [4] * N_LAYERS
    assert_allclose(table["estimate"], 1.0)
    assert_allclose(table["mean_a"], [mean(number(t, i) for t in (0, 1, 3, 4)) for i in range(3)])
    assert table.attrs["notes"] == [
        f"Run {second} is running; 1 trials are missing.",
        "4 units are few: a BCa interval then covers less than it says, and no p below 0.12.",
    ]
    writer.finish("crashed")


def test_a_layer_that_only_one_model_has_stays_with_nothing_paired(store: Store) -> None:
    def deeper(trial: int) -> FinishedTrial:
        curve = [0.5] * (N_LAYERS + 1)
        results = [Values(metric="logit_diff", values=curve, axes=("layer",))]
        return FinishedTrial(trial=trial, results=results)

    uids = write_run(store), write_run(store, make=deeper)
    table = compare.diff(*uids, metric="logit_diff", db=store).set_index("layer")
    assert table["n"].tolist() == [4, 4, 4, 0]
    assert table.loc[3, "n_lost"] == 4
    assert table.loc[3, ["mean_a", "estimate", "low", "p", "q"]].isna().all()


def test_conditions_pair_with_themselves_and_the_prompt_stays_the_unit(store: Store) -> None:
    both = [{"site": "head"}, {"site": "mlp"}]

    def by_condition(trial: int) -> FinishedTrial:
        return replace(make_finished(trial % 4, shift=float(trial // 4)), trial=trial)

    first = write_run(store, make_spec(conditions=both), make=by_condition)
    second = write_run(store, make_spec(conditions=both[1:]))
    split = compare.diff(first, second, metric="logit_diff", by="condition", db=store)
    assert split["condition"].tolist() == ["site=head", "site=mlp"]
    assert split["n"].tolist() == [0, 4]
    assert split.loc[1, "estimate"] == pytest.approx(-1.0)
    whole = compare.diff(first, second, metric="logit_diff", by=[], db=store)
    assert whole.loc[0, ["n", "n_lost"]].tolist() == [4, 0]
    assert whole.loc[0, "estimate"] == pytest.approx(-1.0)


def test_runs_without_a_prompt_in_common_cannot_be_compared(store: Store) -> None:
    first = write_run(store)
    others = tuple(Prompt(text=f"Other {i}") for i in range(3))
    second = write_run(store, make_spec(prompts=replace(make_prompts(name="x"), prompts=others)))
    with pytest.raises(RunError, match=rf"{first} \(capitals\) and {second} \(x\) have no logit_d"):
        compare.diff(first, second, metric="logit_diff", db=store)


@pytest.mark.parametrize(
    ("call", "error", "complaint"),
    [
        (
            lambda s: compare.layer_results("latest", "logit_dif", db=s),
            UnknownNameError,
            "No metric in these runs named 'logit_dif'. Did you mean 'logit_diff'",
        ),
        (
            lambda s: compare.pivot("latest", metric="nope", db=s),
            UnknownNameError,
            "Known: accuracy, answer_rank, head_score, logit_diff",
        ),
        (
            lambda s: compare.diff("latest", "latest", metric="acc", db=s),
            UnknownNameError,
            "accuracy",
        ),
        (
            lambda s: compare.pivot("latest", metric="accuracy", by="layers", db=s),
            UnknownNameError,
            "Did you mean 'layer'",
        ),
        (
            lambda s: compare.pivot("latest", metric="accuracy", by=[], db=s),
            ParameterError,
            "Choose what to group by",
        ),
        (lambda s: compare.layer_results("zzz", db=s), UnknownNameError, "No run named 'zzz'"),
    ],
)
def test_unknown_names(
    store: Store, pair: tuple[str, str], call: Any, error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        call(store)


def test_predictions_and_generations(store: Store, pair: tuple[str, str]) -> None:
    tokens = compare.predictions(list(pair), db=store)
    assert list(tokens.columns) == [
        *("run", "experiment", "model", "prompt", "condition"),
        *("layer", "position", "rank", "token_id", "token", "probability"),
    ]
    assert len(tokens) == 2 * N * N_LAYERS * 2
    first = tokens.iloc[0]
    assert (first["layer"], first["position"], first["rank"], first["token"]) == (0, 4, 0, "␣w0")
    assert_allclose(tokens["probability"], [math.exp(-0.5), math.exp(-1.5)] * (len(tokens) // 2))

    texts = compare.generations(pair[0], db=store)
    assert texts["text"].tolist() == [f"city {trial} ?" for trial in range(N)]
    assert len(compare.generations(write_run(store, make=only_numbers), db=store)) == 0


def only_numbers(trial: int) -> FinishedTrial:
    return FinishedTrial(trial=trial, results=[Values(metric="accuracy", values=1.0)])


def test_a_resumed_run_compares_like_an_undisturbed_one(store: Store) -> None:
    whole = write_run(store)
    uid = create_run(store, make_spec())
    writer = RunWriter(store, uid, token_text)
    writer.start(make_spec().environment)
    writer.write([make_finished(2)])
    writer.finish("crashed")
    work(store, uid, (0, 1, 3))
    table = compare.diff(whole, uid, metric="head_score", by=["layer", "head", "prompt"], db=store)
    assert table["estimate"].tolist() == [0.0] * len(table)
    assert table["n"].tolist() == [1] * len(table)


def test_what_names_no_run_is_refused(store: Store, pair: tuple[str, str]) -> None:
    with pytest.raises(ParameterError, match="No runs are given"):
        compare.layer_results([], db=store)
    with pytest.raises(ParameterError, match="5 names no run; give a uid"):
        compare.layer_results([5], db=store)  # type: ignore[list-item] # on purpose
    with pytest.raises(ParameterError, match=r"give the column: frame\['run'\]"):
        compare.layer_results(compare.runs(store), db=store)  # type: ignore[arg-type] # on purpose
    assert len(compare.layer_results(compare.runs(store)["run"], db=store)) > 0


@pytest.mark.parametrize("limit", [-1, 2**70])
def test_a_limit_is_a_number_of_runs(store: Store, limit: int) -> None:
    with pytest.raises(ParameterError, match="expected a whole number from 1"):
        compare.runs(store, limit=limit)


def test_what_cannot_be_paired_is_told_what_to_do(store: Store) -> None:
    first = write_run(store, make_spec(n_prompts=2))
    other = replace(make_prompts(2), prompts=(Prompt(text="other", answer="x"),) * 1)
    second = write_run(store, replace(make_spec(n_prompts=1), prompts=other))
    with pytest.raises(RunError, match=r"mlux compare --side-by-side, or compare\.pivot"):
        compare.diff(first, second, metric="answer_rank", db=store)
