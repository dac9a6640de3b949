"""What is refused, by condition, and the refusal score of every candidate direction."""

from typing import Any

import altair as alt

from mlux import charts, compare
from mlux.runner import Run

RUNS: list[dict[str, Any]] = [{}]


def draw(runs: list[Run], db: str) -> Any:
    """Harmful and harmless prompts one above the other, beside the choice of the block."""
    rows = compare.layer_results([runs[0].uid], db=db)
    rows["condition"] = rows["condition"].str.replace("intervention=", "")
    by_condition = [
        charts.conditions(
            rows[rows["metric"] == f"{kind}_refused"][["metric", "condition", "prompt", "value"]],
            title=f"{kind} requests that are refused",
            label="share refused",
        )
        for kind in ("harmful", "harmless")
    ]
    last = rows["position"] == 10
    chosen = rows[rows["metric"].isin(["bypass_score", "induce_score"]) & last]
    chosen = chosen.assign(
        condition=chosen["metric"].map(
            {"bypass_score": "harmful, ablated", "induce_score": "harmless, added"}
        ),
        metric="refusal_score",
    )
    profile = charts.layer_profile(
        chosen[["metric", "condition", "prompt", "layer", "value"]],
        title="refusal score by the direction's block",
        label="log odds of a refusal",
    )
    channels = ("color", "shape", "strokeDash")
    # Independent scales keep the legend below its own panel.
    return alt.hconcat(alt.vconcat(*by_condition), profile).resolve_scale(
        **dict.fromkeys(channels, "independent")
    )
