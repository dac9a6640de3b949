"""Curves, maps, rankings, doses and controls: the same numbers as plain loops."""

from itertools import product
from statistics import mean, stdev

import numpy as np
import pandas as pd
import pytest
from made_up import N_HEADS, N_PROMPTS, Recorded
from numpy.testing import assert_allclose
from scipy import stats as scipy_stats
from synthetic import make_spec, write_run

from mlux import compare, stats
from mlux.errors import MluxError, ParameterError, RunError, UnknownNameError

IDENTITY = ["run", "experiment", "model"]


def is_sorted(table: pd.DataFrame, columns: list[str]) -> bool:
    return table.index.tolist() == table.sort_values(columns, kind="stable").index.tolist()


def test_layers_of_models_of_different_depth_are_compared_by_their_share_of_it(
    recorded_runs: Recorded,
) -> None:
    (a, b), store = recorded_runs.runs, recorded_runs.store  # 3 and 5 layers
    deep = [
        np.mean(recorded_runs.prompt_means(b, layer=layer, control=None)) for layer in (0, 2, 4)
    ]
    for table, mine in (
        (compare.diff(a, b, metric="effect", db=store), "mean_b"),
        (compare.diff(a, b, metric="effect", db=store, paired=False), "mean_b"),
        (compare.diff(b, a, metric="effect", db=store), "mean_a"),
    ):
        assert table["layer"].tolist() == [0, 1, 2]
        assert_allclose(table[mine], deep)
        assert "(toy3 3, toy5 5 layers)" in " ".join(table.attrs["notes"]) or mine == "mean_a"
    wide = compare.pivot([a, b], metric="effect", db=store)
    assert wide.index.tolist() == [0, 1, 2]
    assert wide.notna().all(axis=None)
    assert compare.agreement([a, b], metric="effect", db=store).loc[0, "n"] == 6
    plain = compare.diff(a, b, metric="effect", by="head", db=store)
    assert "depth" not in " ".join(plain.attrs["notes"])


def test_a_profile_is_the_mean_over_prompts_by_layer(recorded_runs: Recorded) -> None:
    table = compare.profile(recorded_runs.runs, metric="effect", db=recorded_runs.store, seed=3)
    measures = ["metric", "layer", "depth", "n", "estimate", "low", "high"]
    assert list(table.columns) == [*IDENTITY, *measures]
    assert len(table) == sum(recorded_runs.depths)
    assert is_sorted(table, ["run", "layer"])
    for _, row in table.iterrows():
        units = recorded_runs.prompt_means(row["run"], layer=row["layer"], control=None)
        assert row["n"] == N_PROMPTS
        assert row["estimate"] == pytest.approx(mean(units))
        ends = stats.mean_interval(np.array([units]), seed=3)
        assert_allclose([row["low"], row["high"]], np.ravel(ends))
        depth = dict(zip(recorded_runs.runs, recorded_runs.depths, strict=True))[row["run"]]
        assert row["depth"] == row["layer"] / (depth - 1)
    assert table.attrs["seed"] == 3
    assert "BCa" in table.attrs["method"]


def test_a_profile_may_keep_heads_apart_and_leave_out_the_interval(recorded_runs: Recorded) -> None:
    table = compare.profile(
        recorded_runs.runs[0], metric="effect", by="head", level=None, db=recorded_runs.store
    )
    assert "low" not in table
    assert is_sorted(table, ["head", "layer"])
    for _, row in table.iterrows():
        place = {"layer": row["layer"], "head": row["head"], "control": None}
        assert row["estimate"] == pytest.approx(
            mean(recorded_runs.prompt_means(row["run"], **place))
        )


def test_a_profile_per_model_pools_its_runs(recorded_runs: Recorded) -> None:
    per_model = compare.profile(
        recorded_runs.runs, metric="effect", per="model", db=recorded_runs.store
    )
    per_run = compare.profile(recorded_runs.runs, metric="effect", db=recorded_runs.store)
    assert list(per_model.columns[:2]) == ["model", "metric"]
    assert_allclose(per_model["estimate"], per_run["estimate"])  # one run a model
    assert per_model["depth"].tolist() == per_run["depth"].tolist()


def test_runs_keep_the_order_in_which_they_are_asked_for(recorded_runs: Recorded) -> None:
    backwards = recorded_runs.runs[::-1]
    for table in (
        compare.profile(backwards, metric="effect", db=recorded_runs.store),
        compare.heatmap(backwards, metric="effect", db=recorded_runs.store),
        compare.best(backwards, metric="effect", db=recorded_runs.store),
        compare.controls(backwards, metric="effect", db=recorded_runs.store),
    ):
        assert list(table["run"].unique()) == backwards
        assert list(table["run"].cat.categories) == backwards
        for name in (*IDENTITY, "metric"):
            assert isinstance(table[name].dtype, pd.CategoricalDtype)
        assert str(table.get("layer", pd.Series(dtype="Int64")).dtype) == "Int64"


def test_a_heat_map_is_the_mean_over_prompts_of_each_head(recorded_runs: Recorded) -> None:
    table = compare.heatmap(recorded_runs.runs, metric="effect", db=recorded_runs.store)
    assert list(table.columns) == [*IDENTITY, "metric", "layer", "head", "n", "value"]
    assert len(table) == N_HEADS * sum(recorded_runs.depths)
    assert is_sorted(table, ["run", "layer", "head"])
    for _, row in table.iterrows():
        place = {"layer": row["layer"], "head": row["head"], "control": None}
        assert row["value"] == pytest.approx(mean(recorded_runs.prompt_means(row["run"], **place)))


def test_a_map_of_positions_has_the_tokens_that_prompts_share(recorded_runs: Recorded) -> None:
    options = {"metric": "by_position", "across": "position", "db": recorded_runs.store}
    table = compare.heatmap(recorded_runs.runs[0], **options)
    assert table["position"].tolist() == [0, 1, 2]
    assert table["token"].fillna("?").tolist() == ["␣w7", "␣w8", "?"]
    assert_allclose(table["value"], np.arange(3) + mean(range(N_PROMPTS)))
    apart = compare.heatmap(recorded_runs.runs[0], by="prompt", **options)
    assert apart["token"].tolist() == [t for i in range(5) for t in ("␣w7", "␣w8", f"␣w{i}")]
    assert apart["value"].tolist() == [float(i + j) for i in range(5) for j in range(3)]


def test_conditions_that_are_asked_for_include_the_controls(recorded_runs: Recorded) -> None:
    table = compare.heatmap(
        recorded_runs.runs[0], metric="effect", by="condition", db=recorded_runs.store
    )
    assert len(table["condition"].unique()) == 6
    row = table[table["condition"] == "alpha=2, control=random 1"].iloc[0]
    wanted = recorded_runs.prompt_means(
        recorded_runs.runs[0], layer=0, head=0, alpha="2", control="random 1"
    )
    assert row["value"] == pytest.approx(mean(wanted))


def test_the_best_heads_come_first(recorded_runs: Recorded) -> None:
    table = compare.best(recorded_runs.runs, metric="effect", top=3, db=recorded_runs.store)
    assert list(table.columns) == [*IDENTITY, "metric", "rank", "layer", "head", "n", "value"]
    assert table["rank"].tolist() == [1, 2, 3] * 2
    for run, depth in zip(recorded_runs.runs, recorded_runs.depths, strict=True):
        means = {
            place: mean(
                recorded_runs.prompt_means(run, layer=place[0], head=place[1], control=None)
            )
            for place in product(range(depth), range(N_HEADS))
        }
        wanted = sorted(means, key=lambda place: -means[place])[:3]
        mine = table[table["run"] == run]
        assert list(zip(mine["layer"], mine["head"], strict=True)) == wanted
        assert_allclose(mine["value"], [means[place] for place in wanted])


def test_what_is_best_is_what_the_metric_says(recorded_runs: Recorded) -> None:
    options = {"metric": "rank", "by": "layer", "db": recorded_runs.store}
    table = compare.best(recorded_runs.runs, **options)
    assert table["layer"].tolist() == [depth - 1 for depth in recorded_runs.depths]
    assert table.attrs["which"] == "lowest"
    worst = compare.best(recorded_runs.runs, which="highest", **options)
    assert worst["layer"].tolist() == [0, 0]
    with pytest.raises(ParameterError, match="by_position has no better end: say which='highest'"):
        compare.best(
            recorded_runs.runs, metric="by_position", by="position", db=recorded_runs.store
        )


@pytest.mark.parametrize("by", [["layer", "head"], ["prompt"]])
def test_agreement_is_the_rank_correlation_of_scipy(recorded_runs: Recorded, by: list[str]) -> None:
    table = compare.agreement(
        recorded_runs.runs, metric="effect", by=by, top=2, db=recorded_runs.store
    )
    columns = []
    for run in recorded_runs.runs:
        places = (
            [{"layer": i, "head": h} for i in range(3) for h in range(N_HEADS)]
            if len(by) == 2
            else [{}]
        )
        means = [recorded_runs.prompt_means(run, control=None, **place) for place in places]
        columns.append(np.array([mean(m) for m in means]) if len(by) == 2 else np.array(means[0]))
    row = table.iloc[0]
    wanted = scipy_stats.spearmanr(*columns)
    assert row["n"] == len(columns[0])
    assert row["rho"] == pytest.approx(wanted.statistic)
    assert row["p"] == pytest.approx(wanted.pvalue)
    highest = [set(np.argsort(-column, kind="stable")[:2]) for column in columns]
    assert row["overlap"] == len(highest[0] & highest[1]) / 2
    assert row["by_chance"] == 2 / len(columns[0])
    assert (row["run_a"], row["run_b"]) == tuple(recorded_runs.runs)
    assert (row["model_a"], row["model_b"]) == ("toy3", "toy5")


def test_a_run_agrees_with_itself_and_flat_runs_with_nobody(recorded_runs: Recorded) -> None:
    flat = write_run(recorded_runs.store, make_spec(n_prompts=2))
    with pytest.raises(ParameterError, match="Give two runs or more"):
        compare.agreement([flat, flat[:8]], metric="head_score", db=recorded_runs.store)
    other = write_run(recorded_runs.store, make_spec(n_prompts=2))
    table = compare.agreement([flat, other], metric="head_score", db=recorded_runs.store)
    assert table.loc[0, ["rho", "overlap"]].tolist() == pytest.approx([1.0, 1.0])
    one = compare.agreement([flat, other], metric="accuracy", by="layer", db=recorded_runs.store)
    assert one["n"].tolist() == [1]
    assert one["rho"].isna().all()


def test_dose_and_response(recorded_runs: Recorded) -> None:
    table = compare.dose_response(recorded_runs.runs, metric="effect", db=recorded_runs.store)
    assert list(table.columns) == [*IDENTITY, "metric", "dose", "n", "estimate", "low", "high"]
    assert table["dose"].tolist() == [0.5, 2.0, 10.0] * 2  # as numbers, not as texts
    for _, row in table.iterrows():
        units = recorded_runs.prompt_means(row["run"], alpha=f"{row['dose']:g}", control=None)
        assert row["estimate"] == pytest.approx(mean(units))
    assert table.attrs["dose"] == "alpha"


def test_controls_stand_beside_the_response(recorded_runs: Recorded) -> None:
    table = compare.dose_response(
        recorded_runs.runs[0], metric="effect", by="layer", controls=True, db=recorded_runs.store
    )
    assert table["control"].isna().tolist() == [True] * 9 + [False] * 9
    row = table.iloc[-1]
    units = recorded_runs.prompt_means(row["run"], layer=2, alpha="2", control="random 2")
    assert row["estimate"] == pytest.approx(mean(units))


def test_a_param_of_the_runs_may_be_the_dose(recorded_runs: Recorded) -> None:
    table = compare.dose_response(
        recorded_runs.runs, metric="effect", dose="top_k", db=recorded_runs.store
    )
    assert table["dose"].tolist() == [2.0, 3.0]
    wanted = [mean(recorded_runs.prompt_means(run, control=None)) for run in recorded_runs.runs]
    assert_allclose(table["estimate"], wanted)


def test_effects_are_held_against_their_controls(recorded_runs: Recorded) -> None:
    table = compare.controls(
        recorded_runs.runs, metric="effect", by=["layer", "head"], db=recorded_runs.store
    )
    assert list(table.columns) == [
        *(*IDENTITY, "condition", "layer", "head", "metric", "n", "estimate", "n_controls"),
        *("null_mean", "null_sd", "p", "difference", "low", "high", "p_paired", "q"),
    ]
    assert len(table) == N_HEADS * sum(recorded_runs.depths)
    for _, row in table.iterrows():
        place = {"layer": row["layer"], "head": row["head"], "alpha": "2"}
        units = recorded_runs.prompt_means(row["run"], control=None, **place)
        nulls = [
            recorded_runs.prompt_means(row["run"], control=f"random {i}", **place) for i in range(3)
        ]
        means = [mean(null) for null in nulls]
        assert (row["condition"], row["n"], row["n_controls"]) == ("alpha=2", N_PROMPTS, 3)
        assert row["estimate"] == pytest.approx(mean(units))
        assert row["null_mean"] == pytest.approx(mean(means))
        assert row["null_sd"] == pytest.approx(stdev(means))
        assert row["p"] == pytest.approx(2 / 4)  # every effect is larger than its three controls
        paired = np.array([units]) - np.mean(nulls, axis=0)
        assert row["difference"] == pytest.approx(paired.mean())
        assert_allclose([row["low"], row["high"]], np.ravel(stats.mean_interval(paired)))
        assert row["p_paired"] == stats.sign_flip_p(paired)[0]
    assert_allclose(table["q"], stats.benjamini_hochberg(table["p_paired"].to_numpy()))


def test_without_controls_there_is_no_null_distribution(recorded_runs: Recorded) -> None:
    plain = write_run(recorded_runs.store)
    with pytest.raises(RunError, match="No condition of these runs has a control for logit_diff"):
        compare.controls(plain, metric="logit_diff", db=recorded_runs.store)


def test_only_what_differs_is_shown(recorded_runs: Recorded) -> None:
    table = compare.params_diff(recorded_runs.runs, db=recorded_runs.store)
    assert list(table.columns) == recorded_runs.runs
    assert table.index.tolist() == [
        *(("setup", "model"), ("setup", "seed"), ("param", "top_k"), ("tag", "paper")),
    ]
    assert table.loc[("param", "top_k")].tolist() == [2, 3]
    assert table.loc[("setup", "model")].tolist() == ["toy3", "toy5"]
    assert table.loc[("tag", "paper")].tolist() == [None, "draft"]
    everything = compare.params_diff(recorded_runs.runs, everything=True, db=recorded_runs.store)
    assert everything.loc[("param", "layers")].tolist() == [[0, 2], [0, 2]]
    assert ("version", "numpy") in everything.index
    same = compare.params_diff(recorded_runs.runs[0], db=recorded_runs.store)
    assert (len(same), same.index.names) == (0, ["kind", "name"])


@pytest.mark.parametrize(
    ("call", "error", "complaint"),
    [
        (lambda r: compare.profile(r.runs, metric="efect", db=r.store), UnknownNameError, "effect"),
        (
            lambda r: compare.profile(r.runs, metric="effect", by="heads", db=r.store),
            UnknownNameError,
            "Did you mean 'head'",
        ),
        (
            lambda r: compare.profile(r.runs, metric="effect", level=95, db=r.store),
            ParameterError,
            "level is 95; expected a number above 0 and below 1",
        ),
        (
            lambda r: compare.heatmap(r.runs, metric="effect", across="layer", db=r.store),
            UnknownNameError,
            "Known: head, position",
        ),
        (
            lambda r: compare.dose_response(r.runs, metric="effect", dose="alfa", db=r.store),
            UnknownNameError,
            "Did you mean 'alpha'",
        ),
        (
            lambda r: compare.best(r.runs, metric="effect", by=[], db=r.store),
            ParameterError,
            "Choose what to choose among: layer, head",
        ),
        (
            lambda r: compare.best(r.runs, metric="effect", top=0, db=r.store),
            ParameterError,
            "top is 0; expected a whole number from 1",
        ),
        (
            lambda r: compare.agreement(r.runs[:1], metric="effect", db=r.store),
            ParameterError,
            "Give two runs or more",
        ),
        (
            lambda r: compare.controls(r.runs, metric="effect", by="prompt", db=r.store),
            UnknownNameError,
            "Known: head, layer, position",
        ),
    ],
)
def test_what_cannot_be_answered(
    recorded_runs: Recorded, call: object, error: type[MluxError], complaint: str
) -> None:
    assert callable(call)
    with pytest.raises(error, match=complaint):
        call(recorded_runs)


def test_runs_are_selected_by_param_and_time(recorded_runs: Recorded) -> None:
    def found(**options: object) -> list[str]:
        chosen = compare.runs(recorded_runs.store, **options)["run"]  # type: ignore[arg-type]
        return [run for run in chosen if run in recorded_runs.runs]

    first, second = recorded_runs.runs
    created = compare.runs(recorded_runs.store).set_index("run")["created"]
    assert found(param={"top_k": 2, "same": True})[-1] == first
    assert found(param={"top_k": 3}) == [second]
    assert found(param={"layers": (0, 2), "top_k": 3}) == [second]
    assert found(since=created[first], until=created[first] + pd.Timedelta(1, "us")) == [first]
    assert found(until="2020-01-01") == []
    assert found(since="2020-01-01T12:00", limit=1, param={"top_k": 3}) == [second]
    assert found(model="toy5") == found(tag="paper=draft") == [second]
    with pytest.raises(UnknownNameError, match="Did you mean 'top_k'"):
        found(param={"topk": 2})
    with pytest.raises(ParameterError, match="'yesterdy' is no time; write it as 2026-02-03"):
        found(since="yesterdy")
