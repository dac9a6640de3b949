"""The chart that each experiment gets by itself, on a model of 30 layers and 9 heads."""

from pathlib import Path
from typing import Any

import pytest
from synthetic import write_run

from mlux import charts, registry
from mlux.charts.choice import CHARTS
from mlux.charts.suitable import suggestions
from mlux.store import Store
from tests.charts.every import AXES, made_up
from tests.charts.scene import scene

DEFAULTS = {
    "ablation": ("head_heatmap", "kl"),
    "activation_patching": ("head_heatmap", "patching_effect"),
    "attention_patterns": ("head_heatmap", "attention_entropy"),
    "attribution_patching": ("head_heatmap", "attribution_effect"),
    "back_patching": ("condition_heatmap", "probability_gain"),
    "causal_mediation": ("head_heatmap", "mediation_indirect"),
    "causal_tracing": ("patching_heatmap", "indirect_effect"),
    "cross_model": ("layer_profile", "answer_probability"),
    "direct_logit_attribution": ("attribution_waterfall", None),
    "entity_binding": ("layer_profile", "exchange_effect"),
    "function_vectors": ("layer_profile", "accuracy"),
    "induction_heads": ("head_heatmap", "prefix_matching_score"),
    "logit_lens": ("layer_profile", "answer_probability"),
    "path_patching": ("head_heatmap", "path_effect"),
    "probing": ("layer_profile", "probe_correct"),
    "refusal_direction": ("conditions", "harmful_refused"),
    "steering": ("dose_response", "positive_register"),
    "tuned_lens": ("layer_profile", "answer_probability"),
    "two_hop": ("layer_profile", "entity_probability"),
}
TITLES: dict[str, set[str]] = {
    "head_heatmap": {"head", "layer"},
    "patching_heatmap": {"layer"},
    "condition_heatmap": {"source layer", "target layer"},
    "layer_profile": {"layer"},
    "dose_response": {"alpha"},
    "cross_model": {"depth in percent"},
    "conditions": {"harmful_refused (share)"},
    "attribution_waterfall": {"logits"},
}


def test_the_default_chart_of_every_experiment_is_known() -> None:
    assert set(DEFAULTS) == set(AXES) == set(registry.names())
    assert {chart for chart, _ in DEFAULTS.values()} <= set(CHARTS)


@pytest.mark.parametrize("name", registry.names())
def test_the_default_chart_shows_what_the_experiment_is_for(name: str, tmp_path: Path) -> None:
    with Store.open(tmp_path / "mlux.db", write=True) as store:
        spec, finished = made_up(name, n_prompts=2)  # so few that an interval says nothing
        uid = write_run(store, spec, make=finished, batch=50)
        first = suggestions(uid, db=store)[0]
        assert (first.chart, first.metric) == DEFAULTS[name]
        chart = charts.chart_for(uid, db=store)
    drawn: Any = scene(chart)
    rows = chart.to_dict()["data"]["values"]
    marks = drawn.items("rect") or drawn.items("symbol")
    assert len({(item["x"], item["y"]) for item in marks}) > 1
    titles = set(drawn.texts("axis-title"))
    assert TITLES.get(name, TITLES[first.chart]) <= titles
    for panel in {row.get("panel") for row in rows}:
        series = {row.get("series") for row in rows if row.get("panel") == panel}
        assert len(series) <= (4 if first.chart == "layer_profile" else 8)
    if first.chart in ("layer_profile", "dose_response"):
        # The means fill at least a fifth of the height, however wide the intervals are.
        height = max(item["y2"] for item in drawn.items("area")) or 1
        places = [item["y"] for item in drawn.items("symbol")]
        assert (max(places) - min(places)) / height > 0.2
        assert any(first.metric in title for title in titles)
    assert not [text for text in drawn.texts("title-subtitle") if text.endswith("…")]
