"""`chart_for`: stored runs get the chart that suits what they measured, also a person's own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from example_copy import copy_of_example
from synthetic import METRICS, make_finished, make_model, make_spec, write_run

from mlux import charts, compare
from mlux.charts.suitable import suggestions
from mlux.errors import ParameterError, RunError, UnknownNameError
from mlux.results import Metric, Values
from mlux.store import FinishedTrial, Store
from tests.charts.scene import rgb, scene


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(copy_of_example(tmp_path_factory.mktemp("example") / "example.db"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "mlux.db", write=True) as opened:
        yield opened


@pytest.mark.parametrize(
    ("experiment", "chosen"),
    [
        ("logit_lens", [("layer_profile", "answer_probability"), ("lens_grid", None)]),
        (
            "induction_heads",
            [("head_heatmap", "prefix_matching_score")],
        ),
        (
            "activation_patching",
            [("head_heatmap", "patching_effect"), ("patching_heatmap", "patching_effect")],
        ),
    ],
)
def test_each_experiment_gets_its_charts(
    example: str, experiment: str, chosen: list[tuple[str, str | None]]
) -> None:
    found = suggestions(f"latest:{experiment}", db=example)
    assert [(item.chart, item.metric) for item in found][: len(chosen)] == chosen
    for item in found:
        drawn = charts.chart_for(
            f"latest:{experiment}", chart=item.chart, metric=item.metric, db=example
        )
        assert scene(drawn).texts("title-subtitle")[0].startswith(experiment)


def test_the_induction_heads_of_the_built_in_model_are_the_bright_cells(example: str) -> None:
    drawn = scene(charts.chart_for("latest:induction_heads", db=example))
    bright = [item["description"] for item in drawn.items("rect") if rgb(item["fill"])[0] > 180]
    assert [text.split("; value")[0] for text in bright] == [
        "head: 0; layer: 2",
        "head: 3; layer: 2",
    ]


def test_patching_is_drawn_for_one_prompt_with_its_tokens(example: str) -> None:
    drawn = scene(
        charts.chart_for("latest:activation_patching", chart="patching_heatmap", db=example)
    )
    _, prompt = drawn.texts("title-subtitle")
    words = [text for text in drawn.texts("axis-label") if not text.isdigit()]
    assert " ".join(words[1:]) == prompt
    with pytest.raises(ParameterError, match=r"No prompt of these runs holds 'zebra'\. The first"):
        charts.chart_for("latest", chart="patching_heatmap", prompt="zebra", db=example)


def _of_dose(trial: int) -> FinishedTrial:
    return FinishedTrial(trial=trial, results=[Values(metric="shift", values=float(trial))])


def _of_layer(trial: int) -> FinishedTrial:
    curve = Values(metric="shift", values=[0.1, 0.2, 0.4 + trial], axes=("layer",))
    return FinishedTrial(trial=trial, results=[curve])


SHIFT = (Metric(name="shift", unit="nats", description="How far"),)


@pytest.mark.parametrize(
    ("make", "conditions", "chart"),
    [
        (_of_dose, [{"strength": str(value)} for value in (-0.5, 0, 1e-3, 2)], "dose_response"),
        (_of_dose, [{"kind": "fv"}, {"kind": "random"}], "conditions"),
        (_of_layer, [{}], "layer_profile"),
    ],
)
def test_an_experiment_that_mlux_does_not_know_is_drawn_by_its_axes(
    store: Store,
    make: Callable[[int], FinishedTrial],
    conditions: list[dict[str, str]],
    chart: str,
) -> None:
    spec = make_spec(experiment="mine", metrics=SHIFT, conditions=conditions)
    uid = write_run(store, spec, make=make)
    assert [item.chart for item in suggestions(uid, db=store)] == [chart]
    drawn = scene(charts.chart_for(uid, db=store))
    assert "shift (nats)" in drawn.texts("axis-title")
    assert drawn.texts("title-subtitle")[0] == "mine · toy · n = 4 prompts"


def _shift_and_logit_diff(trial: int) -> FinishedTrial:
    curves = [
        Values(metric=name, values=[0.1, 0.2, factor * trial], axes=("layer",))
        for name, factor in (("logit_diff", 1.0), ("shift", 2.0))
    ]
    return FinishedTrial(trial=trial, results=curves)


def test_the_metric_that_an_experiment_declares_first_is_drawn_first(store: Store) -> None:
    """Also where an earlier experiment brought the others into the database before it."""
    first = make_spec(experiment="first", metrics=METRICS[1:2])
    write_run(store, first, make=lambda trial: FinishedTrial(trial=trial, results=[]))
    spec = make_spec(experiment="mine", metrics=(*SHIFT, METRICS[1]))
    uid = write_run(store, spec, make=_shift_and_logit_diff)
    assert [(item.chart, item.metric) for item in suggestions(uid, db=store)] == [
        ("layer_profile", "shift")
    ]
    drawn = charts.chart_for(uid, db=store)
    assert drawn.to_dict()["usermeta"]["mlux"]["metric"] == "shift"
    assert "shift (nats)" in scene(drawn).texts("axis-title")
    fewer = make_spec(experiment="mine", metrics=spec.metrics, n_prompts=3)
    both = [uid, write_run(store, fewer, make=_shift_and_logit_diff)]
    across = charts.chart_for(both, chart="parallel_coordinates", db=store)
    axes = [text for text in scene(across).texts("axis-label") if text in ("shift", "logit_diff")]
    assert axes == ["shift", "logit_diff"]
    scatter = charts.chart_for(both, chart="run_scatter", db=store)
    assert scatter.to_dict()["usermeta"]["mlux"]["metric"] == "shift,logit_diff"


def test_two_runs_on_two_models_are_drawn_together(store: Store) -> None:
    other = make_model("toy2", weights_hash="01" * 32)
    uids = [write_run(store), write_run(store, make_spec(model=other))]
    drawn = scene(charts.chart_for(uids, chart="layer_profile", metric="logit_diff", db=store))
    assert drawn.texts("legend-label") == ["toy", "toy2"]
    scatter = charts.chart_for(uids, chart="run_scatter", metric="accuracy,logit_diff", db=store)
    assert set(scene(scatter).texts("mark")) == set(uids)
    same = scene(charts.chart_for([uids[0], uids[0]], db=store))
    assert len(same.items("rect")) == 6


def test_generations_of_stored_runs(store: Store) -> None:
    drawn = scene(charts.chart_for(write_run(store), chart="generations", db=store))
    assert "city 0 ?" in drawn.texts("mark")


def test_what_cannot_be_drawn_says_why(store: Store) -> None:
    uid = write_run(store)
    with pytest.raises(UnknownNameError, match="No chart named 'profile'"):
        charts.chart_for(uid, chart="profile", db=store)
    with pytest.raises(UnknownNameError, match="metric that these runs share named 'logit'"):
        charts.chart_for(uid, metric="logit", db=store)
    with pytest.raises(ParameterError, match="patching_heatmap needs values by position"):
        charts.chart_for(uid, chart="patching_heatmap", db=store)
    mine = make_spec(experiment="mine", metrics=SHIFT)
    other = write_run(store, mine, make=lambda trial: FinishedTrial(trial=trial, results=[]))
    with pytest.raises(RunError, match=r"share no metric that has values\. They have .*: shift"):
        charts.chart_for(other, db=store)
    with pytest.raises(RunError, match="share no metric"):
        charts.chart_for([uid, other], chart="layer_profile", db=store)
    with pytest.raises(ParameterError, match="No runs are given"):
        charts.chart_for([], db=store)
    with pytest.raises(ParameterError, match="lens_grid needs top tokens"):
        charts.chart_for(other, chart="lens_grid", db=store)


def test_finished_trials_are_what_is_drawn(store: Store) -> None:
    values = charts.chart_for(
        write_run(store), chart="layer_profile", metric="logit_diff", db=store
    ).to_dict()["data"]["values"]
    expected = [next(iter(v.rows()))[3] for t in range(4) for v in make_finished(t).results[1:2]]
    assert values[0]["value"] == pytest.approx(sum(expected) / 4)


def test_parts_of_a_sum_become_a_waterfall_of_the_first_run(store: Store) -> None:
    def parts(trial: int) -> FinishedTrial:
        heads = Values(metric="head_contribution", values=[[1.0, -0.5]], axes=("layer", "head"))
        mlps = Values(metric="mlp_contribution", values=[2.0], axes=("layer",))
        return FinishedTrial(trial=trial, results=[heads, mlps])

    metrics = tuple(
        Metric(name=f"{kind}_contribution", unit="logits", description="")
        for kind in ("head", "mlp")
    )
    conditions = [{}, {"control": "random"}]
    uid = write_run(store, make_spec(metrics=metrics, conditions=conditions), make=parts)
    assert suggestions(uid, db=store)[0].chart == "attribution_waterfall"
    rows = charts.chart_for(uid, db=store).to_dict()["data"]["values"]
    assert [row["component"] for row in rows] == ["head L0H0", "head L0H1", "mlp L0", "total"]
    assert rows[-1]["to"] == 2.5


def test_many_conditions_leave_their_controls_out_and_say_so(store: Store) -> None:
    sites = [{"site": site} for site in "abcde"]
    conditions = [*sites, *({**site, "control": "random"} for site in sites)]
    spec = make_spec(experiment="mine", metrics=SHIFT, conditions=conditions, n_prompts=2)
    drawn = scene(charts.chart_for(write_run(store, spec, make=_of_layer), db=store))
    assert len(drawn.texts("legend-label")) == 5
    assert drawn.texts("title-subtitle")[-1] == "controls are left out"


def test_what_all_conditions_share_is_not_in_the_legend(store: Store) -> None:
    conditions = [{"layer": "4", "site": "head"}, {"layer": "4", "site": "mlp"}]
    spec = make_spec(experiment="mine", metrics=SHIFT, conditions=conditions)
    drawn = scene(charts.chart_for(write_run(store, spec, make=_of_layer), db=store))
    assert drawn.texts("legend-label") == ["site=head", "site=mlp"]


def test_summaries_of_compare_are_drawn_as_they_are(example: str) -> None:
    lenses = ["latest:logit_lens~1", "latest:logit_lens"]
    profile = compare.profile(lenses, metric="entropy", db=example)
    rows = charts.layer_profile(profile).to_dict()["data"]["values"]
    assert sorted(row["low"] for row in rows) == sorted(profile["low"])  # its own interval
    heads = compare.heatmap("latest:induction_heads", metric="copying_score", db=example)
    assert len(scene(charts.head_heatmap(heads)).items("rect")) == 24
    patched = compare.heatmap(
        "latest:activation_patching",
        metric="patching_effect",
        across="position",
        by="prompt",
        db=example,
    )
    one = patched[patched["prompt"] == patched["prompt"].iloc[0]]
    assert "<bos>" in scene(charts.patching_heatmap(one)).texts("axis-label")


def test_a_summary_by_dose_is_drawn_with_its_own_interval() -> None:
    frame = pd.DataFrame(
        {"model": ["m"] * 3, "metric": ["hits"] * 3, "dose": [0.0, 1.0, 2.0], "n": [9] * 3,
         "estimate": [0.1, 0.4, 0.8], "low": [0.0, 0.3, 0.7], "high": [0.2, 0.5, 0.9]}
    )  # fmt: skip
    chart = charts.dose_response(frame)
    assert [row["high"] for row in chart.to_dict()["data"]["values"]] == [0.2, 0.5, 0.9]
    assert "n = 9 prompts" in scene(chart).texts("title-subtitle")[0]
