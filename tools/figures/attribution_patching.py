"""Estimates from gradients against exact patches."""

from typing import Any

import altair as alt

from mlux import compare

RUNS: tuple[dict[str, Any], ...] = (
    {"prompts": "ioi:8", "params": {"sites": "head", "steps": 1}},
    {"prompts": "ioi:8", "params": {"sites": "head", "steps": 5}},
)
NAMES = ("one backward pass", "five on the way")


def draw(runs: list[Any], db: str) -> Any:
    """Each head of each prompt, estimated with one and with five backward passes."""
    panels = []
    for run, name in zip(runs, NAMES, strict=True):
        frame = compare.layer_results([run.uid], db=db).astype({"condition": str, "metric": str})
        frame = frame[(frame["condition"] == "site=head") & frame["head"].notna()]
        table = frame.pivot_table(
            index=["prompt", "layer", "head"], columns="metric", values="value", observed=True
        ).reset_index()
        table["name"] = table["layer"].astype(str) + "." + table["head"].astype(str)
        table["name"] = table["name"].where(table["patching_effect"].abs() > 0.2, "others")
        points = (
            alt.Chart(table)
            .mark_circle(size=45, opacity=0.7)
            .encode(
                alt.X("patching_effect:Q", title="exact effect"),
                alt.Y("attribution_effect:Q", title="estimate"),
                alt.Color("name:N", title="head", scale=alt.Scale(scheme="tableau10")),
            )
            .properties(width=230, height=230, title=name)
        )
        ends = alt.Chart(alt.Data(values=[{"x": v, "y": v} for v in (-0.2, 1.2)]))
        diagonal = ends.mark_line(color="#999", strokeDash=[4, 3]).encode(x="x:Q", y="y:Q")
        panels.append(diagonal + points)
    return alt.hconcat(*panels)
