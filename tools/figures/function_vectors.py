"""AIE of every head, and what their sum does in prompts without examples, by layer."""

from typing import Any

import altair as alt

from mlux import charts, compare

RUNS: list[dict[str, Any]] = [{}]
NAMES = {
    "context=zero_shot, vector=function": "function vector",
    "context=natural, vector=function": "function vector, in 'the word X is'",
    "context=corrupted, vector=function": "function vector, among mixed examples",
    "context=zero_shot, vector=function, control=random heads 1": "control: random heads",
    "context=zero_shot, vector=function, control=corrupted prompts": "control: mixed examples",
}


def draw(runs: Any, db: str) -> alt.HConcatChart:
    """The heads on the left, the accuracy by layer on the right."""
    effects = compare.layer_results(runs, metric="indirect_effect", db=db)
    accuracy = compare.layer_results(runs, metric="accuracy", db=db)
    named = accuracy[accuracy["condition"].isin(list(NAMES))].copy()
    named["condition"] = named["condition"].astype(str).map(NAMES)
    return alt.hconcat(
        charts.head_heatmap(effects, title="Average indirect effect of each head"),
        charts.layer_profile(named, title="Accuracy with the vector added after a layer"),
    ).resolve_scale(color="independent", shape="independent", strokeDash="independent")
