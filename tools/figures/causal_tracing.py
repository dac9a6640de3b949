"""Where the answer comes back when a layer of one token is restored."""

from typing import Any

import altair as alt

from mlux import charts, compare

RUNS: tuple[dict[str, Any], ...] = ({"prompts": "facts:12"},)


def draw(runs: list[Any], db: str) -> Any:
    """The average indirect effect at the subject's last token and at the prompt's last."""
    panels = []
    for metric, place in (
        ("indirect_effect_subject", "subject's last token"),
        ("indirect_effect_last", "prompt's last token"),
    ):
        frame = compare.layer_results([runs[0].uid], metric=metric, db=db)
        shown = frame[~frame["condition"].astype(str).str.contains("control")]
        title = f"Restored at the {place}"
        panels.append(charts.layer_profile(shown, title=title, label="indirect effect"))
    return alt.hconcat(*panels).resolve_scale(y="shared")
