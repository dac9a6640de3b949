"""Dose and response: the register of what is written, and how likely the text still is."""

from typing import Any

import altair as alt

from mlux import charts, compare
from mlux.runner import Run

RUNS = [
    {
        "prompts": "reviews",
        "params": {"alphas": (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)},
        "batch_size": 64,
    }
]
PANELS = {
    "positive_register": "share that is positive",
    "text_loss": "nats per token",
}


def draw(runs: list[Run], db: str) -> Any:
    """One panel a metric, the direction and its random control in each."""
    rows = compare.layer_results([runs[0].uid], db=db)
    rows = rows[rows["condition"].str.contains("alpha=")]
    rows["condition"] = rows["condition"].str.replace("layer=4, ", "direction=learned, ")
    rows["condition"] = rows["condition"].str.replace(
        r"learned, (.*), control=random", r"random, \1", regex=True
    )
    rows = rows[["condition", "metric", "prompt", "value"]]
    return alt.hconcat(
        *(
            charts.dose_response(rows[rows["metric"] == metric], dose="alpha", label=label)
            for metric, label in PANELS.items()
        )
    )
