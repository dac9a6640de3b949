"""Each chart shows what its numbers say: marks, labels, colours, domain; and its PNG has ink."""

import doctest
import importlib
import inspect
import math

import altair as alt
import pandas as pd
import pytest
from scipy import stats

from mlux import charts
from mlux.charts import style
from mlux.errors import ParameterError
from tests.charts.frames import PROMPTS, predictions, results
from tests.charts.scene import Scene, inked, pixels, rgb, scene

MODULES = (
    "choice",
    "suitable",
    "grids",
    "labels",
    "lens",
    "lines",
    "parts",
    "points",
    "saving",
    "scales",
    "texts",
    "waterfall",
)
YELLOW, PURPLE = (253, 231, 37), (68, 1, 84)  # the ends of viridis


def _looks_right(chart: alt.TopLevelMixin) -> Scene:
    """What holds of every chart: it is not blank, it has a title, and no text is tiny."""
    drawn = scene(chart)
    assert drawn.texts("title-text")
    assert drawn.smallest_text() >= 11
    image = pixels(chart)
    assert 0.01 < inked(image) < 0.95
    assert min(image.size) > 200
    return drawn


def test_a_profile_has_a_line_a_band_and_a_point_for_each_model_and_layer() -> None:
    frame = results(models=["demo", "demo-4bit"], layers=range(4))
    drawn = _looks_right(charts.layer_profile(frame, label="score (fraction)"))
    assert len(drawn.items("symbol")) == 2 * 4
    assert len(drawn.items("area")) == len(drawn.items("line")) == 2 * 4  # the points of each
    assert drawn.texts("legend-label") == ["demo", "demo-4bit"]
    assert drawn.texts("title-text") == ["score by layer"]
    assert drawn.texts("title-subtitle")[0] == "toy_lens · demo, demo-4bit · n = 3 prompts"
    assert {"layer", "score (fraction)"} <= set(drawn.texts("axis-title"))
    fills = {rgb(item["fill"]) for item in drawn.items("symbol")}
    assert fills == {rgb(color) for color in style.PALETTE[:2]}
    shapes = {item["shape"] for item in drawn.items("symbol")}
    assert len(shapes) == 2  # told apart without colour too
    assert [text for text in drawn.texts("axis-label") if "." not in text] == list("0123")


def test_the_band_is_the_t_interval_of_the_mean_over_prompts() -> None:
    values = charts.layer_profile(results(layers=range(2))).to_dict()["data"]["values"]
    of_layer_1 = [0.1 - 0.03, 0.1, 0.1 + 0.03]
    low, high = stats.t.interval(0.95, 2, loc=0.1, scale=stats.sem(of_layer_1))
    assert values[1]["n"] == 3
    assert (values[1]["value"], values[1]["low"], values[1]["high"]) == pytest.approx(
        (0.1, low, high)
    )


@pytest.mark.parametrize("right", [(1.0, 1.0, 1.0), (0.0, 1.0, 1.0), (0.9, 0.99, 0.2)])
def test_the_band_of_a_bounded_metric_stays_within_its_bounds(right: tuple[float, ...]) -> None:
    frame = results(layers=range(2))
    frame["value"] = frame["prompt"].map(dict(zip(PROMPTS, right, strict=True))).astype(float)
    frame.attrs["bounds"] = {frame["metric"].iloc[0]: (0.0, 1.0)}
    for row in charts.layer_profile(frame).to_dict()["data"]["values"]:
        assert 0 <= row["low"] < row["high"] <= 1


def test_a_band_that_the_frame_brings_is_kept_and_one_prompt_has_none() -> None:
    given = pd.DataFrame({"layer": [0, 1], "value": [1.0, 2.0], "low": [0.5, 1.5], "high": [3, 4]})
    assert charts.layer_profile(given).to_dict()["data"]["values"][0]["high"] == 3
    one = results(layers=range(3)).query("prompt == @PROMPTS[0]")
    drawn = _looks_right(charts.layer_profile(one))
    assert "band" not in " ".join(drawn.texts("title-subtitle"))
    assert "n = 1 prompt" in drawn.texts("title-subtitle")[0]


def test_models_of_different_depth_lie_over_each_other_by_relative_depth() -> None:
    shallow, deep = results(layers=range(3)), results(models=["deep"], layers=range(9))
    chart = charts.layer_profile(pd.concat([shallow, deep]), relative=True)
    places = [row["place"] for row in chart.to_dict()["data"]["values"]]
    assert (min(places), max(places)) == (0.0, 1.0)
    assert "relative depth" in _looks_right(chart).texts("axis-title")


def test_heads_are_a_grid_whose_brightest_cell_is_the_greatest_value() -> None:
    frame = results(layers=range(3), heads=range(4))
    drawn = _looks_right(charts.head_heatmap(frame))
    cells = drawn.items("rect")
    assert len(cells) == 3 * 4
    highest = max(cells, key=lambda item: (-item["y"], item["x"]))
    assert "layer: 2" in highest["description"]
    assert rgb(highest["fill"]) == YELLOW
    assert "0.23" in drawn.texts("mark")
    assert drawn.texts("axis-label")[:4] == ["0", "1", "2", "3"]


def test_signed_effects_are_orange_above_zero_blue_below_and_pale_at_zero() -> None:
    frame = results(layers=[0], heads=range(3), value=lambda layer, head, _: head - 1.0)
    cells = _looks_right(charts.head_heatmap(frame)).items("rect")
    blue, pale, orange = (rgb(item["fill"]) for item in sorted(cells, key=lambda cell: cell["x"]))
    assert blue[2] > blue[0] + 80
    assert orange[0] > orange[2] + 80
    assert min(pale) > 220
    frame = results(layers=[0], heads=range(3), value=lambda layer, head, _: head - 0.1)
    color = charts.head_heatmap(frame).to_dict()["layer"][0]["encoding"]["color"]["scale"]
    assert color["domain"] == pytest.approx(
        [-1.9, 1.9]
    )  # centred on 0 whatever the greatest negative


def test_small_values_beside_large_ones_are_plain_numbers() -> None:
    frame = results(
        layers=[0], heads=range(3), value=lambda layer, head, _: [0.0018, 0.146, 13.8][head]
    )
    assert set(scene(charts.head_heatmap(frame)).texts("mark")) == {"0.0", "0.1", "13.8"}


def test_two_models_are_two_panels_of_one_scale() -> None:
    frame = results(models=["demo", "demo-4bit"], layers=range(3), heads=range(4))
    drawn = _looks_right(charts.head_heatmap(frame))
    assert len(drawn.items("rect")) == 2 * 12
    assert {"demo", "demo-4bit"} <= set(drawn.texts("title-text"))


def test_patching_shows_the_tokens_in_their_order_also_repeated_ones() -> None:
    frame = results(layers=range(3), positions=range(4), conditions=["site=resid_pre", "site=mlp"])
    tokens = ["the", " cat", "\n", " cat"]
    drawn = _looks_right(charts.patching_heatmap(frame, tokens))
    assert len(drawn.items("rect")) == 2 * 12
    shown = [text for text in drawn.texts("axis-label") if not text.isdigit()]
    assert shown[:4] == ["the", "␣cat", "↵", "␣cat"]
    with pytest.raises(ParameterError, match="reach position 3, but 2 tokens are given"):
        charts.patching_heatmap(frame, tokens[:2])
    numbered = charts.patching_heatmap(frame[frame["condition"] == "site=mlp"])
    assert "position" in scene(numbered).texts("axis-title")


def test_the_lens_grid_says_the_top_token_and_its_probability() -> None:
    drawn = _looks_right(charts.lens_grid(predictions(["a", "b"]), ["the", "sky"]))
    assert set(drawn.texts("mark")) == {
        "a0", "a1", "a2", "b0", "b1", "b2", "0.33", "0.67", "1.00",
    }  # fmt: skip
    assert {"the", "sky"} <= set(drawn.texts("axis-label"))
    top = min(drawn.items("rect"), key=lambda item: item["y"])
    assert rgb(top["fill"]) == YELLOW  # layer 2, which is sure, stands above


def test_prompts_that_were_read_at_one_position_are_the_columns_of_the_lens() -> None:
    both = pd.concat([predictions(["x"], prompt=prompt) for prompt in PROMPTS])
    drawn = _looks_right(charts.lens_grid(both))
    assert [text for text in drawn.texts("axis-label") if "capital" in text] == list(PROMPTS)
    several = pd.concat([predictions(["x", "y"], prompt=prompt) for prompt in PROMPTS])
    with pytest.raises(ParameterError, match="draws one prompt, this frame has 3"):
        charts.lens_grid(several)


def test_a_long_prompt_keeps_its_end_in_the_lens_and_says_so() -> None:
    drawn = scene(charts.lens_grid(predictions([f"w{i}_" for i in range(40)])))
    assert len(drawn.items("rect")) == 3 * 24
    assert "the last 24 of 40 columns" in drawn.texts("title-subtitle")


def test_an_attention_pattern_is_a_triangle_of_rows_that_sum_to_one() -> None:
    tokens = ["<s>", "a", "b"]
    pattern = [[1, 0, 0], [0.25, 0.75, 0], [0.2, 0.3, 0.5]]
    frame = charts.pattern_frame(pattern, tokens)
    drawn = _looks_right(charts.attention_pattern(frame, subtitle="head 2.0"))
    assert len(drawn.items("rect")) == 6
    assert sorted(drawn.texts("mark")) == ["0.20", "0.25", "0.30", "0.50", "0.75", "1.00"]
    first = min(drawn.items("rect"), key=lambda item: (item["y"], item["x"]))
    assert rgb(first["fill"]) == YELLOW
    heads = pd.concat([frame.assign(layer=0, head=head) for head in range(2)])
    assert "layer 0, head 1" in _looks_right(charts.attention_pattern(heads)).texts("title-text")
    with pytest.raises(ParameterError, match=r"shape \[1, 2\] for 3 tokens"):
        charts.pattern_frame([[1, 0]], tokens)


def test_a_dose_response_orders_doses_as_numbers() -> None:
    doses = ("alpha=10", "alpha=2", "alpha=-1.5", "alpha=0")
    frame = results(conditions=[f"{dose},site={site}" for dose in doses for site in ("a", "b")])
    chart = charts.dose_response(frame)
    rows = chart.to_dict()["data"]["values"]
    assert [row["place"] for row in rows if row["series"] == "site=a"] == [-1.5, 0, 2, 10]
    drawn = _looks_right(chart)
    assert drawn.texts("legend-label") == ["site=a", "site=b"]
    assert {"alpha", "score"} <= set(drawn.texts("axis-title"))


def test_a_dose_that_cannot_be_found_is_asked_for() -> None:
    frame = results(conditions=["alpha=1,beta=1", "alpha=2,beta=2"])
    with pytest.raises(
        ParameterError, match=r"2 strengths that vary\. Choose with dose=: alpha, b"
    ):
        charts.dose_response(frame)
    assert charts.dose_response(frame, dose="beta").to_dict()["title"]["text"] == "score by beta"
    with pytest.raises(ParameterError, match=r"no strength named 'gamma'.*alpha, beta"):
        charts.dose_response(frame, dose="gamma")


def test_a_waterfall_ends_at_the_sum_of_its_parts() -> None:
    parts = {"embed": 1.0, "attn 0": -0.5, "mlp 0": 2.0, "attn 1": 0.25}
    frame = pd.DataFrame({"component": list(parts), "value": list(parts.values())})
    chart = charts.attribution_waterfall(frame)
    rows = chart.to_dict()["data"]["values"]
    assert [row["from"] for row in rows] == [0, 1.0, 0.5, 2.5, 0]
    assert rows[-1]["to"] == sum(parts.values())
    drawn = _looks_right(chart)
    assert drawn.texts("mark") == ["+1.00", "−0.50", "+2.00", "+0.25", "+2.75"]
    assert [*parts, "total"] == [t for t in drawn.texts("axis-label") if t in {*parts, "total"}]


def test_a_waterfall_of_many_parts_adds_up_the_small_ones() -> None:
    frame = results(layers=range(6), heads=range(8), conditions=["component=head"])
    rows = charts.attribution_waterfall(frame, most=10).to_dict()["data"]["values"]
    assert len(rows) == 11
    assert rows[-2]["component"] == "39 others"
    assert rows[0]["component"] == "head L4H7"
    means = frame.groupby(["layer", "head"])["value"].mean()
    assert rows[-1]["to"] == pytest.approx(means.sum())


def test_a_metric_without_layers_is_a_point_with_its_interval_for_each_condition() -> None:
    frame = results(conditions=["kind=fv", "kind=random"])
    drawn = _looks_right(charts.conditions(frame))
    assert len(drawn.items("symbol")) == len(drawn.items("rule")) == 2
    assert {"kind=fv", "kind=random"} <= set(drawn.texts("axis-label"))


def test_runs_scatter_where_their_two_metrics_say() -> None:
    frame = pd.concat(
        [results(models=["a", "b"], metric=name, layers=range(2)) for name in ("mass", "charge")]
    )
    drawn = _looks_right(charts.run_scatter(frame, x="mass", y="charge"))
    assert len(drawn.items("symbol")) == 2
    assert set(drawn.texts("mark")) == {"runa", "runb"}
    assert {"mass", "charge"} <= set(drawn.texts("axis-title"))
    with pytest.raises(ParameterError, match="needs the column spin; this frame has run, exper"):
        charts.run_scatter(frame, x="mass", y="spin")


def test_parallel_coordinates_scale_each_axis_from_its_least_to_its_greatest() -> None:
    numbers = {"params.top_k": [1, 5, 3], "score": [0.2, 0.1, 0.9], "same": [1, 1, 1]}
    frame = pd.DataFrame({"run": list("abc"), "model": list("mmn"), **numbers})
    drawn = _looks_right(charts.parallel_coordinates(frame))
    assert {"top_k", "score"} <= set(drawn.texts("axis-label"))
    assert "same" not in drawn.texts("axis-label")
    assert sorted(drawn.texts("mark")) == ["0.1", "0.9", "1", "5"]
    assert len(drawn.items("symbol")) == 6
    with pytest.raises(ParameterError, match="needs two numbers that differ between runs"):
        charts.parallel_coordinates(frame[["run", "same"]])


def test_generations_stand_side_by_side() -> None:
    frame = pd.DataFrame(
        [
            {"prompt": prompt, "condition": condition, "text": f"{condition} says\nso " * 30}
            for prompt in PROMPTS
            for condition in ("alpha=0", "alpha=1")
        ]
    )
    drawn = _looks_right(charts.generations(frame))
    assert set(drawn.texts("axis-label")) == {"alpha=0", "alpha=1"}
    texts = drawn.texts("mark")
    assert all(prompt in texts for prompt in PROMPTS)
    assert max(map(len, texts)) <= 80
    assert any(text.endswith("…") for text in texts)


@pytest.mark.parametrize(
    ("draw", "complaint"),
    [
        (charts.layer_profile, "layer_profile needs the columns layer, value; this frame has x."),
        (charts.lens_grid, "lens_grid needs the columns layer, position, rank, token, prob"),
        (charts.generations, "generations needs the columns prompt, text"),
    ],
)
def test_a_frame_of_another_kind_is_refused(draw: object, complaint: str) -> None:
    with pytest.raises(ParameterError, match=complaint):
        draw(pd.DataFrame({"x": [1]}))  # type: ignore[operator] # one of the charts


def test_nothing_to_draw_and_two_metrics_at_once_are_refused() -> None:
    frame = results(layers=range(2))
    with pytest.raises(ParameterError, match="no rows, so there is nothing to draw"):
        charts.layer_profile(frame[:0])
    both = pd.concat([frame, results(layers=range(2), metric="other")])
    with pytest.raises(ParameterError, match=r"draws one metric, this frame has 2: score, other\."):
        charts.layer_profile(both)


def test_what_is_not_finite_is_left_out_instead_of_breaking_the_chart() -> None:
    def value(layer: int, head: int, _: int) -> float:
        return [math.nan, math.inf, 1.0][head]

    drawn = _looks_right(charts.head_heatmap(results(layers=[0, 1], heads=range(3), value=value)))
    assert len(drawn.items("rect")) == 2


def test_a_deep_model_with_many_heads_stays_legible() -> None:
    frame = results(layers=range(80), heads=range(64))
    drawn = scene(charts.head_heatmap(frame))
    assert len(drawn.items("rect")) == 80 * 64
    assert drawn.texts("mark") == []  # no room for numbers
    labels = drawn.texts("axis-label")  # every second, so that none overlap
    assert set(labels) == {str(place) for place in range(0, 80, 2)}


@pytest.mark.parametrize("name", MODULES)
def test_every_example_in_a_docstring_runs(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"mlux.charts.{name}")).failed == 0


def test_every_chart_has_an_example() -> None:
    drawn_from_runs = {"chart_for", "CHARTS"}
    for name in set(charts.__all__) - drawn_from_runs:
        assert ">>>" in (inspect.getdoc(getattr(charts, name)) or ""), name


def test_the_site_is_named_and_so_is_the_unmodified_condition() -> None:
    heads = results(layers=[0, 1], heads=[0, 1], conditions=["site=head"])
    assert scene(charts.head_heatmap(heads)).texts("title-subtitle") == [
        "toy_lens · demo · site=head · n = 3 prompts"
    ]
    lines = results(layers=[0, 1], conditions=["", "site=mlp_out", "site=attn_out"])
    named = {row["series"] for row in charts.layer_profile(lines).to_dict()["data"]["values"]}
    assert named == {"unmodified", "site=mlp_out", "site=attn_out"}
    controlled = results(layers=[0, 1], conditions=["site=head", "site=head, control=self"])
    named = {row["series"] for row in charts.layer_profile(controlled).to_dict()["data"]["values"]}
    assert named == {"site=head", "control=self"}


def test_ranks_have_a_logarithmic_axis_on_which_0_has_a_place() -> None:
    frame = results(layers=range(4), value=lambda layer, _, prompt: [90_000, 900, 8, 0][layer])
    drawn = _looks_right(charts.layer_profile(frame, logarithmic=True))
    labels = [text for text in drawn.texts("axis-label") if len(text) > 1]
    assert labels == ["10", "100", "1,000", "10,000"]
    heights = [item["y"] for item in sorted(drawn.items("symbol"), key=lambda item: item["x"])]
    assert heights[3] - heights[2] > 0.1 * (heights[3] - heights[0])
    grid = charts.condition_heatmap(
        results(
            layers=[0, 1],
            conditions=["source=0", "source=1", "source=2"],
            value=lambda layer, _, prompt: 1000.0**layer,
        ),
        logarithmic=True,
    )
    drawn = scene(grid)
    assert drawn.texts("legend-label") == ["0", "10", "100", "1,000"]
    low, high = (rgb(item["fill"]) for item in (drawn.items("rect")[0], drawn.items("rect")[-1]))
    assert high == YELLOW
    assert low[2] > 100  # a rank of 1 in 1,000 is not the dark end


def test_more_lines_than_can_be_told_apart_are_panels_with_their_controls() -> None:
    sites = [f"at={at}, entity={what}" for at in ("last", "subject") for what in "ab"]
    frame = results(
        layers=range(3), conditions=[*sites, *(f"{site}, control=other" for site in sites)]
    )
    drawn = _looks_right(charts.layer_profile(frame))
    assert {"at=last", "at=subject"} <= set(drawn.texts("title-text"))
    assert drawn.texts("legend-label") == [
        "entity=a", "entity=b", "entity=a, control=other", "entity=b, control=other",
    ]  # fmt: skip
    alone = [f"site={site}" for site in "abc"]
    frame = results(layers=range(3), conditions=[*alone, *(f"{s}, control=x" for s in alone)])
    assert scene(charts.layer_profile(frame)).texts("legend-label") == ["no control", "control=x"]


def test_the_interval_of_two_prompts_is_not_what_the_axis_is_about() -> None:
    frame = results(layers=range(4), value=lambda layer, _, prompt: layer + 2.0 * prompt)
    two = frame[frame["prompt"] != PROMPTS[2]]
    for draw in (charts.layer_profile, charts.conditions):
        rows = draw(two).to_dict()["data"]["values"]
        assert rows[0]["high"] - rows[0]["low"] == pytest.approx(2)
        assert "from one to the other of two prompts" in scene(draw(two)).texts("title-subtitle")[1]


def test_a_number_of_the_conditions_is_an_axis_of_a_map() -> None:
    conditions = [f"at=last, source_layer={layer}" for layer in (10, 2, 1)]
    drawn = _looks_right(charts.condition_heatmap(results(layers=[0, 1], conditions=conditions)))
    assert len(drawn.items("rect")) == 2 * 3
    assert drawn.texts("axis-label")[:3] == ["1", "2", "10"]
    assert "source layer" in drawn.texts("axis-title")
