"""The figure of docs/experiments/two_hop.md: ranks of bridge and answer by layer."""

from typing import Any

import altair as alt

from mlux import compare

RUNS: list[dict[str, Any]] = [{}]
WHERE = {"subject": "at the subject's last token", "last": "at the last token"}


def draw(runs: list[Any], db: str) -> alt.TopLevelMixin:
    """The median rank of bridge and answer, and of another prompt's, at both places."""
    results = compare.layer_results(runs, metric="entity_rank", db=db)
    parts = results["condition"].astype(str).str.extract(r"at=(?P<at>\w+), entity=(?P<entity>\w+)")
    results["place"] = parts["at"].map(WHERE)
    results["looked for"] = parts["entity"]
    is_control = results["condition"].astype(str).str.contains("control")
    results.loc[is_control, "looked for"] = "another prompt's " + parts["entity"]
    keys = ["place", "looked for", "layer"]
    medians = results.groupby(keys)["value"].median().add(1).reset_index()
    order = ["bridge", "answer", "another prompt's bridge", "another prompt's answer"]
    return (
        alt.Chart(medians)
        .mark_line(point=True)
        .encode(
            alt.X("layer:O", title="after block", axis=alt.Axis(labelAngle=0)),
            alt.Y("value:Q", title="median rank + 1 (1 is on top)",
                  scale=alt.Scale(type="log", reverse=True, domain=[1, 1500])),
            alt.Color("looked for:N", sort=order, title=None, legend=alt.Legend(labelLimit=250),
                      scale=alt.Scale(range=["#0072b2", "#e69f00", "#8fb8d0", "#ecd08f"])),
            alt.StrokeDash("looked for:N", sort=order, legend=None),
            alt.Column("place:N", title=None, sort=list(WHERE.values())),
        )
        .properties(width=220, height=220)
    )  # fmt: skip
