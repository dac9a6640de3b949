"""Differences by a mixed-effects model: every number counts, and prompts are a random effect."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from mlux.compare.pairing import load, refuse_empty
from mlux.compare.selection import GROUPS, groups_of
from mlux.compare.summary import check_level, group_codes
from mlux.errors import ParameterError
from mlux.stats import benjamini_hochberg, mixed_model
from mlux.store.frames import Database, Runs

_MEASURES = ("n", "n_values", "estimate", "low", "high", "p", "q")
_SPREADS = ("sd_prompt", "sd_slope", "sd_residual", "converged")


def mixed(
    a: Runs,
    b: Runs,
    *,
    metric: str,
    by: str | Sequence[str] = "layer",
    across_quantization: bool = False,
    level: float = 0.95,
    db: Database = None,
) -> pd.DataFrame:
    """How b differs from a by a linear mixed model with prompts as random effects.

    For seeds: give several runs that differ in their seed alone. Each is a replicate of every
    prompt, so that how much the difference varies between prompts can be told from noise. A prompt
    that only one side has takes part too. With one run a side it says what `diff` says.

    Args:
        a: A run, the baseline; or several that differ in their seed alone.
        b: A run, or several.
        metric: The metric.
        by: What to compare separately: any of `layer head position condition`.
        across_quantization: Whether models of different precision may be compared.
        level: The confidence level of the interval.
        db: The notebook.

    Returns:
        One row a group: its names, `n` prompts, `n_values` numbers, `estimate` (b minus a), `low`,
        `high`, `p` (Wald), `q` (Benjamini and Hochberg), the standard deviations `sd_prompt`
        (between prompts), `sd_slope` (of the difference between prompts; NaN without replicates)
        and `sd_residual`, and `converged`. NaN where no model can be fitted: fewer than three
        prompts, or no spread. `attrs` has `method`, `level` and `notes`.

    Raises:
        UnknownNameError: If there is no such run, metric or group.
        RunError: If nothing can be paired, or the comparison would be invalid.

    Example:
        >>> both = ["latest:logit_lens~1", "latest:logit_lens"]
        >>> table = mixed(*both, metric="answer_probability", across_quantization=True,
        ...               db="mlux.db.example")
        >>> bool(table["converged"].any())
        True
    """
    check_level(level)
    among = [name for name in GROUPS if name not in ("prompt", "model", "experiment")]
    groups = groups_of(by, among=among)
    sides = load(a, b, metric=metric, by=groups, across=across_quantization, db=db, replicates=True)
    shared = np.intersect1d(sides.cells[0]["condition_id"], sides.cells[1]["condition_id"])
    cells = pd.concat(
        [side.assign(is_b=float(is_b)) for is_b, side in enumerate(sides.cells)],
        ignore_index=True,
    )
    cells = cells[cells["condition_id"].isin(shared)]
    unit = [*groups, "run", "prompt_id", "is_b"]
    cells = cells.groupby(unit, observed=True, dropna=False)["value"].mean().reset_index()
    refuse_empty(sides, cells, metric)
    codes, table = group_codes(cells, groups)
    fits = [_fit(cells[codes == code], level) for code in range(len(table))]
    for name in (*_MEASURES, *_SPREADS):
        table[name] = [fit.get(name) for fit in fits]
    table["q"] = benjamini_hochberg(table["p"].to_numpy(dtype=np.float64))
    table = table.astype(dict.fromkeys(("n", "n_values"), "int64") | {"converged": "bool"})
    methods = [fit["method"] for fit in fits if fit["method"]]
    table.attrs = {
        "a": sides.called(0),
        "b": sides.called(1),
        "metric": metric,
        "method": methods[0] if methods else "",
        "correction": f"Benjamini–Hochberg over {len(methods)} tests",
        "level": level,
        "notes": sides.notes,
    }
    return table


def _fit(cells: pd.DataFrame, level: float) -> dict[str, Any]:
    """A fitted model's numbers, or NaN for a group that allows none."""
    values, is_b = cells["value"].to_numpy(), cells["is_b"].to_numpy()
    try:
        return asdict(mixed_model(values, is_b, cells["prompt_id"].tolist(), level=level))
    except ParameterError:
        nothing = dict.fromkeys(("estimate", "low", "high", "p", *_SPREADS[:3]), np.nan)
        n = cells["prompt_id"].nunique()
        return {**nothing, "n": n, "n_values": len(cells), "converged": False, "method": ""}
