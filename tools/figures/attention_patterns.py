"""The previous-token head and the induction heads of the built-in model, by what they look at."""

from typing import Any

import altair as alt

from mlux import charts, compare

RUNS: list[dict[str, Any]] = [{}]
TITLES = {
    "previous_token_attention": "the previous token",
    "successor_attention": "what followed it before",
    "bos_attention": "the first token",
}


def draw(runs: list[Any], db: str) -> Any:
    """Mean attention of every head to three places, side by side."""
    panels = []
    for metric, title in TITLES.items():
        frame = compare.layer_results(runs[:1], metric=metric, db=db)
        frame = frame[frame["condition"].astype(str) == ""].drop(columns="condition")
        panels.append(charts.head_heatmap(frame, title=title, label="attention"))
    return alt.hconcat(*panels).resolve_scale(color="independent")
