"""The figure of docs/experiments/entity_binding.md: how often the answer follows an exchange."""

from typing import Any

import altair as alt

from mlux import compare

RUNS: list[dict[str, Any]] = [{}]


def draw(runs: list[Any], db: str) -> alt.TopLevelMixin:
    """The share of prompts whose answer follows the exchange before each block."""
    results = compare.layer_results(runs, metric="follows_exchange", db=db)
    condition = results["condition"].astype(str)
    results["exchanged"] = condition.str.extract(r"exchange=(\w+)")[0]
    is_control = condition.str.contains("control")
    results["what"] = is_control.map({False: "as named", True: "random positions (control)"})
    shares = results.groupby(["exchanged", "what", "layer"])["value"].mean().reset_index()
    return (
        alt.Chart(shares)
        .mark_line(point=True)
        .encode(
            alt.X("layer:O", title="exchanged before block", axis=alt.Axis(labelAngle=0)),
            alt.Y("value:Q", title="answers that follow the exchange",
                  scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
            alt.Color("what:N", title=None, legend=alt.Legend(labelLimit=250),
                      scale=alt.Scale(range=["#0072b2", "#999999"])),
            alt.StrokeDash("what:N", title=None),
            alt.Column("exchanged:N", title=None, sort=["entities", "attributes", "both"]),
        )
        .properties(width=150, height=200)
    )  # fmt: skip
