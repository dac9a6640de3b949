"""Runs as tidy pandas DataFrames, and what differs between them, paired by prompt.

A run is named by its uid, the start of it, `latest`, `latest:EXPERIMENT`, or anything that has a
`uid`. Names are categoricals, layer, head and position are `Int64` with NA where there is none.
"""

from mlux.compare.curves import dose_response, profile
from mlux.compare.differences import diff
from mlux.compare.listing import runs
from mlux.compare.maps import heatmap
from mlux.compare.mixed import mixed
from mlux.compare.null import controls
from mlux.compare.options import params_diff
from mlux.compare.pairing import pairs
from mlux.compare.ranking import agreement, best
from mlux.compare.rows import generations, layer_results, pivot, predictions
from mlux.compare.selection import GROUPS
from mlux.compare.tokens import tokens

__all__ = [
    "GROUPS",
    "agreement",
    "best",
    "controls",
    "diff",
    "dose_response",
    "generations",
    "heatmap",
    "layer_results",
    "mixed",
    "pairs",
    "params_diff",
    "pivot",
    "predictions",
    "profile",
    "runs",
    "tokens",
]
