"""Where the answer to indirect-object prompts is decided."""

from typing import Any

import altair as alt

from mlux import charts, compare

RUNS = ({"prompts": "ioi:12"},)


def draw(runs: list[Any], db: str) -> Any:
    """The residual stream of the first prompt by token, and all heads over all prompts."""
    frame = compare.layer_results([runs[0].uid], metric="patching_effect", db=db)
    condition = frame["condition"].astype(str)
    prompt = "then george and sarah met at the park and sarah passed a letter to"
    stream = frame[(condition == "site=resid_pre") & (frame["prompt"].astype(str) == prompt)]
    heads = frame[condition == "site=head"]
    return alt.hconcat(
        charts.patching_heatmap(
            stream, ["<bos>", *prompt.split()], title="Residual stream before each block"
        ),
        charts.head_heatmap(heads, title="Heads, mean of 12 prompts"),
    ).resolve_scale(color="independent")
