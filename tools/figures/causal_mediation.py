"""How much of a fact goes through each attention and MLP."""

from typing import Any

import altair as alt

from mlux import charts, compare

RUNS: tuple[dict[str, Any], ...] = (
    {"prompts": "facts:12", "params": {"mediators": ("attn_out", "mlp_out")}},
)


def draw(runs: list[Any], db: str) -> Any:
    """Indirect and direct effects by layer."""
    panels = []
    for metric, title in (
        ("mediation_indirect", "Indirect effect: only the mediator changes"),
        ("mediation_direct", "Direct effect: all but the mediator changes"),
    ):
        frame = compare.layer_results([runs[0].uid], metric=metric, db=db)
        shown = frame[~frame["condition"].astype(str).str.contains("control")]
        panels.append(charts.layer_profile(shown, title=title, label="logits"))
    return alt.hconcat(*panels).resolve_scale(y="shared")
