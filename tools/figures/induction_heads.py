"""Prefix-matching scores of the built-in model, with and without a repetition."""

from typing import Any

from mlux import charts, compare

RUNS: list[dict[str, Any]] = [{}]


def draw(runs: list[Any], db: str) -> Any:
    """Two heat maps of heads on one scale: the score and its control."""
    frame = compare.layer_results(runs[:1], metric="prefix_matching_score", db=db)
    names = {"": "repeated", "control=no_repeat": "control: nothing repeated"}
    frame["condition"] = [names[str(condition)] for condition in frame["condition"]]
    return charts.head_heatmap(frame, title="Prefix matching on random words", label="score")
