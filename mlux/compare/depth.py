"""Layers of models of different depth: the same number is not the same place.

Layer 12 ends a model of 13 layers and is early in one of 48. So layers of the deeper model are
named by the layer of the shallowest that lies at the same share of the depth, `layer /
(n_layers - 1)`, rounded to the nearest layer; those between are left out.
"""

from collections.abc import Sequence

import pandas as pd

from mlux.compare.facts import RunFacts
from mlux.store.sense import IN_PERCENT


def reference_depth(runs: Sequence[RunFacts], groups: Sequence[str]) -> int | None:
    """How many layers the shallowest model has; None if layers can be compared as they are."""
    depths = {run.n_layers for run in runs if run.experiment not in IN_PERCENT}
    return min(depths) if "layer" in groups and len(depths) > 1 else None


def at_depth(frame: pd.DataFrame, run: RunFacts, reference: int | None) -> pd.DataFrame:
    """The rows of layers that the shallowest model has, too, under its layer's number.

    Args:
        frame: With `layer`, of one model.
        run: A run on this model.
        reference: The result of `reference_depth`; None leaves the frame alone.
    """
    if reference is None or run.n_layers == reference or run.experiment in IN_PERCENT:
        return frame
    step = (run.n_layers - 1) / max(reference - 1, 1)
    named = {int(layer * step + 0.5): layer for layer in range(reference)}
    kept = frame[frame["layer"].isna() | frame["layer"].isin(list(named))]
    return kept.assign(layer=kept["layer"].map(named).astype("Int64"))


def depth_notes(runs: Sequence[RunFacts], reference: int | None) -> list[str]:
    """What a person has to know of the layers; nothing if all models have as many."""
    if reference is None:
        return []
    models = {run.model: run.n_layers for run in runs}
    said = ", ".join(f"{model} {n_layers}" for model, n_layers in models.items())
    return [
        f"The models differ in depth ({said} layers): layers are compared at the same share of "
        f"the depth, layer / (n_layers - 1), under their number in the one of {reference}; layers "
        "in between are left out. See all of them: mlux compare profile."
    ]
