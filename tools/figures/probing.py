"""How well sentiment and random labels are read, by layer, on known and on new adjectives."""

from typing import Any

import pandas as pd

from mlux import charts, compare

RUNS: list[dict[str, Any]] = [{}, {"params": {"split": "types"}}]
NAMES = {
    (0, ""): "sentiment, known adjectives",
    (0, "control=random_labels"): "random labels, known adjectives",
    (1, ""): "sentiment, new adjectives",
    (1, "control=random_labels"): "random labels, new adjectives",
}


def draw(runs: list[Any], db: str) -> Any:
    """Held-out accuracy of linear probes by layer, a line for each task."""
    frames = []
    for place, run in enumerate(runs):
        frame = compare.layer_results([run], metric="probe_correct", db=db)
        frame["condition"] = [NAMES[place, str(condition)] for condition in frame["condition"]]
        frames.append(frame)
    frame = pd.concat(frames, ignore_index=True).assign(run="one")
    return charts.layer_profile(
        frame, title="Probing reviews, built-in model", label="held-out accuracy"
    )
