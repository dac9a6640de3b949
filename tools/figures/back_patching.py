"""The figure of docs/experiments/back_patching.md: the gain of every pair of layers."""

from typing import Any

import altair as alt

from mlux import compare

RUNS: list[dict[str, Any]] = [{}]
WHERE = {"last": "last token", "subject": "subject's last token"}


def draw(runs: list[Any], db: str) -> alt.TopLevelMixin:
    """Mean change of the answer's probability for every pair of layers, beside the control."""
    results = compare.layer_results(runs, metric="probability_gain", db=db)
    condition = results["condition"].astype(str)
    parts = condition.str.extract(r"at=(?P<at>\w+), source_layer=(?P<source>\d+)")
    results["source"] = parts["source"].astype(int)
    results["place"] = parts["at"].map(WHERE)
    results["from"] = condition.str.extract(r"control=(\w+)")[0].fillna("same prompt")
    results["panel"] = results["place"] + ", from " + results["from"].str.replace("_", " ")
    shown = results[results["from"] != "self"]
    means = shown.groupby(["panel", "layer", "source"])["value"].mean().reset_index()
    means["text"] = (means["value"].round(2) + 0.0).map("{:+.2f}".format)
    order = [f"{place}, from {what}" for place in WHERE.values()
             for what in ("same prompt", "other prompt")]  # fmt: skip
    place = alt.Chart().encode(
        alt.X("source:O", title="from after block", axis=alt.Axis(labelAngle=0)),
        alt.Y("layer:O", title="into after block", sort="descending"),
    )
    tiles = place.mark_rect().encode(
        alt.Color("value:Q", title="change of p(answer)",
                  scale=alt.Scale(scheme="blueorange", domain=[-1, 1]))
    )  # fmt: skip
    words = place.mark_text(fontSize=9).encode(
        alt.Text("text:N"),
        color=alt.condition("abs(datum.value) > 0.6", alt.value("white"), alt.value("black")),
    )
    return (
        alt.layer(tiles, words, data=means)
        .properties(width=190, height=190)
        .facet(alt.Facet("panel:N", sort=order, title=None), columns=2)
    )
