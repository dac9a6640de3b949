"""What is drawn around a mean, how far the axis of a metric reaches, and in which steps."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from mlux.charts import data, style

_FEW = 3  # prompts below which a t interval is thirteen times as wide as they are apart


def means(frame: pd.DataFrame, by: Sequence[str], mark: str) -> tuple[pd.DataFrame, str]:
    """Means with what is drawn around them, and a note that says what that is.

    Args:
        frame: As for `data.over_prompts`.
        by: What to group by.
        mark: What it is drawn as: band or line.

    Returns:
        `data.over_prompts` with `least` and `most`, the ends of the single prompts. Of two prompts
        `low` and `high` are these, so that a chart of very few shows what there is.
    """
    table = data.over_prompts(frame, by)
    if "prompt" not in frame.columns or "low" in frame.columns:
        table = table.assign(least=table["low"], most=table["high"])
    else:
        table = table.merge(data.ends(frame, by), on=list(by), how="left")
        few = table["n"] < _FEW
        table["low"] = table["low"].where(~few | table["low"].isna(), table["least"])
        table["high"] = table["high"].where(~few | table["high"].isna(), table["most"])
    drawn = table[table["low"].notna()]
    notes = []
    if "n" not in drawn.columns or (drawn["n"] >= _FEW).any():
        notes.append("95 % interval of the mean")
    if "n" in drawn.columns and (drawn["n"] < _FEW).any():
        notes.append("from one to the other of two prompts")
    return table, f"{mark}: {', '.join(notes)}" if len(drawn) else ""


def value_axis(
    table: pd.DataFrame, label: str, logarithmic: bool, *, zero: bool = False
) -> tuple[alt.Scale, alt.Axis]:
    """The scale and axis of means with their intervals, as far as single prompts reach.

    Args:
        table: As `means` returns it.
        label: Of the axis.
        logarithmic: Whether equal steps are equal factors; near 0 they are equal differences.
        zero: Whether 0 is on it; otherwise only where values are positive and come near it.
    """
    low, high = data.bounds(pd.concat([table["value"], table["low"], table["high"]]))
    least, most = data.bounds(pd.concat([table["value"], table["least"], table["most"]]))
    low, high = max(low, least), min(high, most)
    if logarithmic:
        scale = alt.Scale(type="symlog", domain=[min(least, 0), max(high, 1)], nice=False)
        return scale, style.axis(label, values=style.powers(high))
    if zero or 0 <= table["value"].min() <= 0.3 * high:
        low, high = min(low, 0), max(high, 0)
    if low == high:
        return alt.Scale(zero=zero, padding=8), style.axis(label)
    return alt.Scale(domain=[low, high], zero=False, nice=True), style.axis(label)
