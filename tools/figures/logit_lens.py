"""When the built-in model knows a fact, and whether attention or an MLP says it."""

from typing import Any

from mlux import charts, compare

RUNS: list[dict[str, Any]] = [{"params": {"streams": "resid_post,attn_out,mlp_out"}}]


def draw(runs: list[Any], db: str) -> Any:
    """The mean probability of the answer after each block, by what is read."""
    frame = compare.layer_results(runs[:1], metric="answer_probability", db=db)
    names = {"": "residual stream", "stream=attn_out": "attention alone"}
    names["stream=mlp_out"] = "MLP alone"
    frame["condition"] = [names[str(condition)] for condition in frame["condition"]]
    return charts.layer_profile(
        frame, title="Logit lens on facts, built-in model", label="probability of the answer"
    )
