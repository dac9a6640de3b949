"""The parts of the built-in model that write the name of the indirect object."""

from typing import Any

import pandas as pd

from mlux import charts, compare

RUNS: list[dict[str, Any]] = [{}]


def draw(runs: list[Any], db: str) -> Any:
    """The mean contribution of every part, as a waterfall that ends at the logit difference."""
    frame = compare.layer_results(runs[:1], db=db)
    frame = frame[frame["condition"].astype(str) == ""].copy()
    metric = frame["metric"].astype(str)
    frame = frame[metric.str.endswith("_contribution")]
    names = {"head": "head", "mlp": "MLP", "attention_rest": "attention rest"}
    kind = frame["metric"].astype(str).str.removesuffix("_contribution")
    frame["component"] = [
        " ".join([names.get(name, name), ".".join(str(i) for i in places if not pd.isna(i))])
        for name, *places in zip(kind, frame["layer"], frame["head"], strict=True)
    ]
    frame["metric"] = "logit difference"
    means = frame.groupby("component", sort=False)["value"].mean().reset_index()
    return charts.attribution_waterfall(
        means, most=12, title="Who writes the name: IOI on the built-in model",
        label="logit(answer) − logit(wrong answer)",
    )  # fmt: skip
