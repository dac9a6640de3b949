"""What induction loses without each head, and without the induction heads together."""

from typing import Any

import altair as alt

from mlux import charts, compare

RUNS: tuple[dict[str, Any], ...] = ({"prompts": "induction:16", "params": {"sites": "head"}},)
SETS = {
    "site=head_set": "the two induction heads",
    "site=head_set, control=random": "two random heads",
}


def draw(runs: list[Any], db: str) -> Any:
    """The loss without each head, and the loss without both."""
    frame = compare.layer_results([runs[0].uid], db=db)
    frame = frame.astype({"condition": str, "metric": str})
    heads = frame[frame["condition"].isin(["kind=zero, site=head", "kind=resample, site=head"])]
    sets = frame[(frame["metric"] == "loss") & frame["condition"].str.contains("head_set")]
    parts = sets["condition"].str.split(", ", n=1, expand=True)
    sets = sets.assign(kind=parts[0].str[5:], without=parts[1].map(SETS))
    means = sets.groupby(["kind", "without"], as_index=False)["value"].mean()
    bars = (
        alt.Chart(means, title="Loss without both")
        .mark_bar()
        .encode(
            alt.X("kind:N", title=None, axis=alt.Axis(labelAngle=0)),
            alt.XOffset("without:N"),
            alt.Y("value:Q", title="loss, nats"),
            alt.Color("without:N", title=None, scale=alt.Scale(range=["#0072b2", "#e69f00"])),
        )
        .properties(width=220, height=170)
    )
    grid = charts.head_heatmap(heads[heads["metric"] == "loss"], title="Loss without a head, nats")
    return alt.hconcat(grid, bars).resolve_scale(color="independent")
