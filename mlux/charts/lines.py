"""Lines with bands: a metric by layer, and an effect by dose."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from mlux.charts import data, style
from mlux.errors import ParameterError

WIDTH, HEIGHT = 440, 260
_DOTS = 40  # above this many places the points on a line only blur it


def layer_profile(
    frame: pd.DataFrame,
    *,
    title: str | None = None,
    label: str | None = None,
    relative: bool = False,
) -> alt.LayerChart:
    """A metric by layer, a line for each run, model or condition, with a band around it.

    Args:
        frame: Rows of one metric, `layer` and `value`; as `compare.layer_results` returns it, or
            with `low` and `high` if the band is already known. What else it has (`prompt`,
            `experiment`, `model`, `condition`, `run`) names the lines and counts the prompts.
        title: Instead of `METRIC by layer`.
        label: Of the vertical axis, such as the metric with its unit.
        relative: Depth from 0 to 1 instead of the layer's number, to lay models of different
            depth over each other.

    Returns:
        The chart. Unless the frame brings its own, the band is the 95 % t interval of the mean
        over prompts; heads and positions are averaged first.

    Raises:
        ParameterError: If the frame lacks a column, has no rows, or holds several metrics.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"layer": [0, 1], "value": [0.1, 0.9], "metric": "logit_diff"})
        >>> layer_profile(frame).to_dict()["title"]["text"]
        'logit_diff by layer'
    """
    frame = data.need(frame, ("layer", "value"), "layer_profile")
    metric = data.one_metric(frame, "layer_profile")
    # Named before rows are left out: an empty frame would take on the rows of what it is given.
    rows = frame.assign(series=data.series(frame))
    rows = rows[rows["layer"].notna()]
    data.need(rows, (), "layer_profile")
    table = data.over_prompts(rows, ["series", "layer"])
    table["place"] = table["layer"].astype(float)
    if relative:
        deepest = table.groupby("series")["place"].transform("max").clip(lower=1)
        table["place"] /= deepest
    averaged = [name for name in ("head", "position") if _varies(rows, name)]
    notes = [f"mean over {'s and '.join(averaged)}s"] if averaged else []
    across = "relative depth" if relative else "layer"
    x = (
        alt.X("place:Q", axis=style.axis(across), scale=alt.Scale(domain=[0, 1]))
        if relative
        else alt.X(
            "place:Q",
            axis=style.axis(across, format="d", values=style.some(table["place"], 20), grid=False),
            scale=alt.Scale(nice=False, padding=12),
        )
    )
    return _banded(
        table,
        x=x,
        across=across,
        label=label or metric,
        title=style.heading(title or f"{metric} by layer", data.about(frame, _band(table, *notes))),
    )


def _varies(frame: pd.DataFrame, column: str) -> bool:
    """Whether a prompt has more than one head, or position, at a layer."""
    if not data.present(frame, column):
        return False
    by = [name for name in ("series", "prompt", "layer") if name in frame.columns]
    plain = frame[[*by, column]].astype(object)
    return bool((plain.groupby(by)[column].nunique() > 1).any())


def dose_response(
    frame: pd.DataFrame,
    *,
    dose: str | None = None,
    title: str | None = None,
    label: str | None = None,
) -> alt.LayerChart:
    """A metric against the strength of an intervention, a line for each model or condition.

    Args:
        frame: Rows of one metric with `value`, and the strength: a column of that name, or part of
            `condition`, as in `alpha=0.5, site=head`; or as `compare.dose_response` returns it.
        dose: The name of the strength; by default a column `dose`, or the only numeric part of the
            conditions that varies.
        title: Instead of `METRIC by DOSE`.
        label: Of the vertical axis.

    Returns:
        The chart, with 95 % t intervals of the mean over prompts.

    Raises:
        ParameterError: If no strength, or more than one, can be found.

    Example:
        >>> import pandas as pd
        >>> conditions = ["alpha=0", "alpha=1", "alpha=2"]
        >>> frame = pd.DataFrame({"condition": conditions, "value": [0.0, 0.4, 0.7]})
        >>> dose_response(frame).to_dict()["title"]["text"]
        'value by alpha'
    """
    frame = data.need(frame, ("value",), "dose_response")
    metric = data.one_metric(frame, "dose_response")
    name, doses, rest = _dose(frame, dose)
    rows = frame.assign(dose=doses, condition=rest)
    rows = rows[rows["dose"].notna()]
    rows["series"] = data.series(rows)
    table = data.over_prompts(rows, ["series", "dose"]).rename(columns={"dose": "place"})
    return _banded(
        table,
        x=alt.X("place:Q", axis=style.axis(name), scale=alt.Scale(nice=False, padding=12)),
        across=name,
        label=label or metric,
        title=style.heading(title or f"{metric} by {name}", data.about(frame, _band(table))),
    )


def _dose(frame: pd.DataFrame, dose: str | None) -> tuple[str, pd.Series, pd.Series]:
    """The strength's name, its value in each row, and what is left of each row's condition."""
    nothing = pd.Series("", index=frame.index)
    if dose is None and "dose" in frame.columns:  # as compare.dose_response returns it
        dose = "dose"
    if dose is not None and dose in frame.columns:
        rest = frame["condition"] if "condition" in frame.columns else nothing
        return dose, pd.to_numeric(frame[dose]), rest
    frame = data.need(frame, ("condition",), "dose_response")
    parts = {text: condition_parts(text) for text in data.distinct(frame, "condition")}
    names = dict.fromkeys(name for values in parts.values() for name in values)
    found = {name: {values.get(name) for values in parts.values()} for name in names}
    numeric = [
        name
        for name, values in found.items()
        if len(values) > 1 and all(value is None or _is_number(value) for value in values)
    ]
    if dose is None and len(numeric) == 1:
        dose = numeric[0]
    if dose is None or dose not in names:
        wanted = f"no strength named {dose!r}" if dose else f"{len(numeric)} strengths that vary"
        raise ParameterError(
            f"dose_response: these conditions have {wanted}. "
            f"Choose with dose=: {', '.join(numeric or names) or 'they have no values'}."
        )
    chosen = {text: values.get(dose) for text, values in parts.items()}
    bad = [value for value in chosen.values() if value is not None and not _is_number(value)]
    if bad:
        raise ParameterError(f"dose_response: {dose} is {bad[0]!r}, which is not a number.")
    rests = {
        text: ", ".join(f"{k}={v}" for k, v in values.items() if k != dose)
        for text, values in parts.items()
    }
    texts = frame["condition"].astype(object)
    return dose, pd.to_numeric(texts.map(chosen)), texts.map(rests)


def condition_parts(label: str) -> dict[str, str]:
    """`alpha=0.5,site=head` as a mapping."""
    pairs = (part.partition("=") for part in label.split(","))
    return {name.strip(): value for name, equals, value in pairs if equals}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _band(table: pd.DataFrame, *notes: str) -> str:
    shown = table["low"].notna().any()
    return " · ".join([*(["band: 95 % interval of the mean"] if shown else []), *notes])


def _height(table: pd.DataFrame) -> alt.Scale:
    """Of the vertical axis: from 0 where values are positive and come near it."""
    low, high = data.bounds(pd.concat([table["value"], table["low"], table["high"]]))
    if 0 <= table["value"].min() <= 0.3 * high:
        return alt.Scale(domainMin=min(low, 0), nice=True)
    return alt.Scale(zero=False, padding=8)


def _banded(
    table: pd.DataFrame, *, x: alt.X, across: str, label: str, title: alt.TitleParams
) -> alt.LayerChart:
    """Lines, their bands and points, told apart by colour, dash and shape."""
    # Dashes by a field of their own without a scale: else the legend takes them up in its dots.
    table = table.sort_values("place", kind="stable").assign(dash=table["series"])
    names: Sequence[str] = list(dict.fromkeys(table["series"]))
    several = len(names) > 1
    columns = 2 if max(map(len, names)) <= 28 else 1
    legend = style.legend(None, orient="bottom", columns=columns, symbolOpacity=1)
    domain = alt.Scale(domain=list(names))  # the same everywhere, so that there is one legend
    color = alt.Color(
        "series:N",
        scale=style.series_color(names),
        legend=legend if several else None,
    )
    y = alt.Y("value:Q", axis=style.axis(label), scale=_height(table))
    tooltip = [
        *([alt.Tooltip("series:N", title="series")] if several else []),
        alt.Tooltip("place:Q", title=across),
        alt.Tooltip("value:Q", title=label, format=".4g"),
        alt.Tooltip("low:Q", format=".4g"),
        alt.Tooltip("high:Q", format=".4g"),
        *([alt.Tooltip("n:Q", title="prompts")] if "n" in table.columns else []),
    ]
    base = alt.Chart().encode(x=x, color=color)
    band = base.mark_area(opacity=0.2, interpolate="linear").encode(
        y=alt.Y("low:Q", axis=style.axis(label)), y2="high:Q"
    )
    line = base.mark_line(strokeWidth=2).encode(y=y)
    points = base.mark_point(filled=True, size=55, opacity=1).encode(y=y, tooltip=tooltip)
    if several:
        line = line.encode(strokeDash=alt.StrokeDash("dash:N", sort=list(names), legend=None))
        points = points.encode(shape=alt.Shape("series:N", scale=domain, legend=legend))
    if table["place"].nunique() > _DOTS:
        points = points.mark_point(filled=True, size=20, opacity=0.001)  # still there to hover
    return style.layered([band, line, points], data.records(table), title).properties(
        width=WIDTH, height=HEIGHT
    )
