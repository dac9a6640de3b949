"""From tidy results to the few rows that a chart draws: means over prompts, intervals, names.

The prompt is the unit, as in `mlux.compare`: what a prompt has several of is averaged first, and
the interval is that of the mean over prompts.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlux.charts import labels
from mlux.errors import ParameterError
from mlux.stats import Bounds, mean_interval

Record = dict[str, Any]

UNMODIFIED = "unmodified"
"""The name of the condition that changes nothing, beside others."""

NAMING = ("experiment", "model", "condition", "run")
"""What tells series apart, the most telling first."""


def need(frame: pd.DataFrame, columns: Iterable[str], chart: str) -> pd.DataFrame:
    """The frame, with `estimate`, as summaries of `mlux.compare` call it, in the place of `value`.

    Raises:
        ParameterError: If it lacks a column or has no rows.
    """
    if "value" not in frame.columns and "estimate" in frame.columns:
        frame = frame.rename(columns={"estimate": "value"})
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ParameterError(
            f"{chart} needs the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            f"this frame has {', '.join(map(str, frame.columns)) or 'none'}."
        )
    if not len(frame):
        raise ParameterError(f"{chart}: this frame has no rows, so there is nothing to draw.")
    return frame


def one_metric(frame: pd.DataFrame, chart: str) -> str:
    """The name of the metric that the frame holds.

    Raises:
        ParameterError: If it holds several.
    """
    names = distinct(frame, "metric")
    if len(names) > 1:
        raise ParameterError(
            f"{chart} draws one metric, this frame has {len(names)}: {', '.join(names)}. "
            f"Choose: frame[frame['metric'] == {names[0]!r}]"
        )
    return names[0] if names else "value"


def distinct(frame: pd.DataFrame, column: str) -> list[str]:
    """The different names in a column in the order of their appearance; none without it."""
    if column not in frame.columns:
        return []
    return [str(name) for name in frame[column].dropna().unique()]


def present(frame: pd.DataFrame, column: str) -> bool:
    """Whether the frame says a layer, head or position."""
    return column in frame.columns and bool(frame[column].notna().any())


def series(frame: pd.DataFrame, *, but: Sequence[str] = ()) -> pd.Series:
    """A name for each row: what differs between the series that the frame holds.

    Runs are named by uid only where nothing else tells them apart.
    """
    named = [name for name in NAMING if name in frame.columns and name not in but]
    keys = frame[named].astype(object).drop_duplicates()
    chosen = [name for name in named if name != "run" and keys[name].nunique(dropna=False) > 1]
    if "run" in named and keys.drop(columns="run").duplicated().any():
        chosen.append("run")
    if not chosen:
        return pd.Series("", index=frame.index)
    parts = [_parts(frame[name]) for name in chosen]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined + " · " + part
    return joined


def _parts(column: pd.Series) -> pd.Series:
    """Names as labels; of conditions only what not all of them have in common."""
    names = {name: name for name in column.astype(object).unique()}
    if column.name == "condition":
        values = {name: str(name).split(", ") for name in names}
        common = set.intersection(*map(set, values.values()))
        names = {
            name: ", ".join(part for part in parts if part not in common)
            for name, parts in values.items()
        }
    # What has nothing of its own keeps its whole name; one without any part is unmodified.
    shown = {
        name: labels.short(str(text or name), 60) or UNMODIFIED for name, text in names.items()
    }
    return column.astype(object).map(shown)


def over_prompts(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean of each group over its prompts, with its 95 % interval.

    Args:
        frame: Rows with `value`, perhaps `prompt`, and the columns of `by`.
        by: What to group by.

    Returns:
        `by`, `value`, `low`, `high`, `n`. The interval is Student's t over prompts, that of
        `stats.mean_interval` for a metric that `attrs["bounds"]` has; with a single prompt it is
        missing. Where the frame brings `low` and `high`, they are kept.
    """
    by = list(by)
    if {"low", "high"} <= set(frame.columns):
        kept = [*by, "value", "low", "high", *(["n"] if "n" in frame.columns else [])]
        return frame[kept].reset_index(drop=True)
    plain = frame.assign(**{name: frame[name].astype(object) for name in by})
    units = by + (["prompt"] if "prompt" in frame.columns else [])
    if "prompt" in frame.columns:
        plain["prompt"] = frame["prompt"].astype(object)
        plain = plain.groupby(units, dropna=False, sort=False)["value"].mean().reset_index()
    groups = plain.groupby(by, dropna=False, sort=False)["value"]
    table = groups.agg(["mean", "std", "count"]).reset_index()
    n = table["count"].to_numpy(dtype=float)
    half = _t(n) * table["std"].to_numpy(dtype=float) / np.sqrt(np.maximum(n, 1))
    mean = table["mean"].to_numpy(dtype=float)
    found = table[by].assign(value=mean, low=mean - half, high=mean + half, n=n.astype(int))
    assert isinstance(found, pd.DataFrame)
    names = distinct(frame, "metric")
    bounds = frame.attrs.get("bounds", {}).get(names[0]) if len(names) == 1 else None
    if bounds is not None:
        _stay_inside(found, groups, bounds)
    return found


def _stay_inside(table: pd.DataFrame, groups: Any, bounds: Bounds) -> None:
    """Gives means of a bounded metric the intervals that `mlux.compare` has for them."""
    cells = [values.to_numpy(dtype=np.float64) for _, values in groups]
    for n in {len(cell) for cell in cells if len(cell) > 1}:
        places = [place for place, cell in enumerate(cells) if len(cell) == n]
        ends = mean_interval(np.array([cells[place] for place in places]), bounds=bounds)
        for name, end in zip(("low", "high"), ends, strict=True):
            table.loc[places, name] = end


def ends(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The `least` and the `most` of each group among the means of its single prompts."""
    units = [*by, "prompt"]
    plain = frame.assign(**{name: frame[name].astype(object) for name in units})
    of_prompt = plain.groupby(units, dropna=False, sort=False)["value"].mean().reset_index()
    groups = of_prompt.groupby(list(by), dropna=False, sort=False)["value"]
    return groups.agg(least="min", most="max").reset_index()


def _t(n: Any) -> Any:
    """Student's t for 97.5 %, for each number of units; NaN for fewer than two."""
    from scipy import special

    return special.stdtrit(np.where(n > 1, n - 1, np.nan), 0.975)


def records(frame: pd.DataFrame) -> list[Record]:
    """Rows as JSON can say them: numbers of Python, None for what is missing or infinite."""
    columns = {str(name): [_plain(v) for v in frame[name].astype(object)] for name in frame.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def about(frame: pd.DataFrame, *more: str) -> list[str]:
    """The lines below a title: experiment, models, how many prompts, and what else to know."""
    models = distinct(frame, "model")
    shown = [labels.short(name, 40) for name in models[:3]]
    shown += [f"{len(models) - 3} more models"] if len(models) > 3 else []
    parts = [", ".join(distinct(frame, "experiment")), ", ".join(shown), _common(frame)]
    parts.append(counted(frame))
    first = " · ".join(part for part in parts if part)
    return [line for line in (first, *more) if line]


def _common(frame: pd.DataFrame) -> str:
    """What all conditions have in common, such as the site; no series is named by it."""
    conditions = [text.split(", ") for text in distinct(frame, "condition")]
    if not conditions:
        return ""
    shared = set.intersection(*map(set, conditions))
    return labels.short(", ".join(part for part in conditions[0] if part in shared), 60)


def counted(frame: pd.DataFrame) -> str:
    """`n = 126 prompts`: the units behind a number; a range where runs differ."""
    if "prompt" not in frame.columns:
        if "n" in frame.columns and len(frame):
            return _n(int(frame["n"].min()), int(frame["n"].max()))
        return ""
    by = [name for name in ("run", "condition") if name in frame.columns]
    plain = frame[[*by, "prompt"]].astype(object)
    sizes = plain.groupby(by)["prompt"].nunique() if by else pd.Series([plain["prompt"].nunique()])
    return _n(int(sizes.min()), int(sizes.max()))


def _n(low: int, high: int) -> str:
    return f"n = {low}{f'–{high}' if high != low else ''} prompt{'s' * (high != 1)}"


def bounds(values: pd.Series) -> tuple[float, float]:
    """Least and greatest finite value; a sign that is only rounding does not count."""
    numbers = values.to_numpy(dtype=float)
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    return (0.0 if -1e-9 * max(abs(high), 1) < low < 0 else low), high
