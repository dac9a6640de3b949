"""Small frames such as `mlux.compare` returns them, with known numbers."""

from typing import Any

import pandas as pd

PROMPTS = ("the capital of france is", "the capital of peru is", "the capital of oman is")


def results(**axes: Any) -> pd.DataFrame:
    """Tidy results of one metric: value = 0.1 · layer + 0.01 · (head or position) + noise."""
    rows = [
        {
            "run": f"run{model}", "experiment": "toy_lens", "model": model, "prompt": prompt,
            "condition": condition, "metric": axes.get("metric", "score"), "layer": layer,
            "head": head, "position": position,
            "value": axes.get("value", _value)(layer or 0, head or position or 0, number),
        }
        for model in axes.get("models", ["demo"])
        for number, prompt in enumerate(PROMPTS)
        for condition in axes.get("conditions", [""])
        for layer in axes.get("layers", [None])
        for head in axes.get("heads", [None])
        for position in axes.get("positions", [None])
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    for name in ("layer", "head", "position"):
        frame[name] = frame[name].astype("Int64")
    for name in ("run", "experiment", "model", "prompt", "condition", "metric"):
        frame[name] = frame[name].astype("category")
    return frame


def _value(layer: int, other: int, prompt: int) -> float:
    return 0.1 * layer + 0.01 * other + 0.03 * (prompt - 1)


def predictions(tokens: list[str], layers: int = 3, prompt: str = PROMPTS[0]) -> pd.DataFrame:
    """Top tokens of one prompt: at layer l the token at each position is `tokens[i]l`."""
    rows = [
        {
            "run": "rundemo", "experiment": "logit_lens", "model": "demo", "prompt": prompt,
            "condition": "", "layer": layer, "position": position, "rank": rank,
            "token": f"{token}{layer}" if rank == 0 else "no",
            "probability": (layer + 1) / layers / (rank + 1),
        }
        for layer in range(layers)
        for position, token in enumerate(tokens)
        for rank in range(2)
    ]  # fmt: skip
    return pd.DataFrame(rows)
