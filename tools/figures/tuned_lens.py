"""How far the tuned and the logit lens are from the final prediction, layer by layer."""

from typing import Any

from mlux import charts, compare

RUNS: list[dict[str, Any]] = [{}]


def draw(runs: list[Any], db: str) -> Any:
    """The mean distance to the final prediction on prompts that the lens has not seen."""
    frame = compare.layer_results(runs[:1], metric="kl_to_final", db=db)
    names = {"lens=tuned": "tuned lens", "lens=logit": "logit lens"}
    frame["condition"] = [names[str(condition)] for condition in frame["condition"]]
    return charts.layer_profile(
        frame, title="Distance to the final prediction, few-shot prompts", label="KL in nats"
    )
