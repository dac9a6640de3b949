"""Lines with bands: a metric by layer, and an effect by dose."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from mlux.charts import data, style
from mlux.charts.parts import doses, layers_of, panels
from mlux.charts.scales import means, value_axis

Lines = alt.LayerChart | alt.FacetChart

WIDTH, HEIGHT = 440, 260
_PANEL = (300, 190)
MOST_SERIES = 4  # above this many, lines are divided into panels
_LINE = ["panel", "series"]
_DOTS = 40  # above this many places the points on a line only blur it


def layer_profile(
    frame: pd.DataFrame,
    *,
    title: str | None = None,
    label: str | None = None,
    relative: bool = False,
    logarithmic: bool = False,
) -> Lines:
    """A metric by layer, a line for each run, model or condition, with a band around it.

    Args:
        frame: Rows of one metric, `layer` and `value`; as `compare.layer_results` returns it, or
            with `low` and `high` if the band is already known. What else it has (`prompt`,
            `experiment`, `model`, `condition`, `run`) names the lines and counts the prompts. A
            part `layer_axis=NAME` of all conditions says what `layer` counts, if not layers.
        title: Instead of `METRIC by layer`.
        label: Of the vertical axis, such as the metric with its unit.
        relative: Depth from 0 to 1 instead of the layer's number, to lay models of different
            depth over each other.
        logarithmic: Whether equal steps of the vertical axis are equal factors, for ranks; near 0
            it is linear, so that 0 has a place.

    Returns:
        The chart; more than four lines are divided into panels by model or by a part of the
        conditions, where that leaves some to compare in each. Unless the frame brings its own, the
        band is the 95 % t interval of the mean over prompts; heads and positions are averaged
        first. Of two prompts it is from one to the other. The axis reaches as far as single prompts
        do, and the band is cut off there.

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
    layers, frame = layers_of(data.need(frame[frame["layer"].notna()], (), "layer_profile"))
    panel, series = panels(frame, MOST_SERIES)
    rows = frame.assign(panel=panel, series=series, place=frame["layer"].astype(float))
    averaged = [name for name in ("head", "position") if _varies(rows, name)]
    across = "relative depth" if relative else layers
    if relative:
        rows["place"] /= rows.groupby(_LINE)["place"].transform("max").clip(lower=1)
    x = (
        alt.X("place:Q", axis=style.axis(across), scale=alt.Scale(domain=[0, 1]))
        if relative
        else alt.X(
            "place:Q",
            axis=style.axis(across, format="d", values=style.some(rows["place"], 20), grid=False),
            scale=alt.Scale(nice=False, padding=12),
        )
    )
    return _banded(
        rows,
        x=x,
        across=across,
        label=label or metric,
        logarithmic=logarithmic,
        title=title or f"{metric} by {layers}",
        about=frame,
        notes=[f"mean over {'s and '.join(averaged)}s"] if averaged else [],
    )


def _varies(frame: pd.DataFrame, column: str) -> bool:
    """Whether a prompt has more than one head, or position, at a layer."""
    if not data.present(frame, column):
        return False
    by = [name for name in (*_LINE, "prompt", "layer") if name in frame.columns]
    plain = frame[[*by, column]].astype(object)
    return bool((plain.groupby(by)[column].nunique() > 1).any())


def dose_response(
    frame: pd.DataFrame,
    *,
    dose: str | None = None,
    title: str | None = None,
    label: str | None = None,
    logarithmic: bool = False,
) -> Lines:
    """A metric against the strength of an intervention, a line for each model or condition.

    Args:
        frame: Rows of one metric with `value`, and the strength: a column of that name, or part of
            `condition`, as in `alpha=0.5, site=head`; or as `compare.dose_response` returns it.
        dose: The name of the strength; by default a column `dose`, or the only numeric part of the
            conditions that varies.
        title: Instead of `METRIC by DOSE`.
        label: Of the vertical axis.
        logarithmic: As of `layer_profile`.

    Returns:
        The chart, with 95 % t intervals of the mean over prompts, in panels as `layer_profile`.

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
    name, values, rest = doses(frame, dose)
    rows = frame.assign(place=values, condition=rest)
    rows = rows[rows["place"].notna()]
    panel, series = panels(rows, MOST_SERIES)
    return _banded(
        rows.assign(panel=panel, series=series),
        x=alt.X("place:Q", axis=style.axis(name), scale=alt.Scale(nice=False, padding=12)),
        across=name,
        label=label or metric,
        logarithmic=logarithmic,
        title=title or f"{metric} by {name}",
        about=frame,
    )


def _banded(
    rows: pd.DataFrame,
    *,
    x: alt.X,
    across: str,
    label: str,
    logarithmic: bool,
    title: str,
    about: pd.DataFrame,
    notes: Sequence[str] = (),
) -> Lines:
    """Lines, their bands and points, told apart by colour, dash and shape."""
    table, around = means(rows, [*_LINE, "place"], "band")
    # Dashes by a field of their own without a scale: else the legend takes them up in its dots.
    table = table.sort_values("place", kind="stable").assign(dash=table["series"])
    names: Sequence[str] = list(dict.fromkeys(table["series"]))
    shown = list(dict.fromkeys(table["panel"]))
    several = len(names) > 1
    columns = 2 if max(map(len, names)) <= 28 else 1
    legend = style.legend(None, orient="bottom", columns=columns, symbolOpacity=1)
    domain = alt.Scale(domain=list(names))  # the same everywhere, so that there is one legend
    color = alt.Color(
        "series:N",
        scale=style.series_color(names),
        legend=legend if several else None,
    )
    scale, axis = value_axis(table, label, logarithmic)
    tooltip = [
        *([alt.Tooltip("series:N", title="series")] if several else []),
        alt.Tooltip("place:Q", title=across),
        alt.Tooltip("value:Q", title=label, format=".4g"),
        alt.Tooltip("low:Q", format=".4g"),
        alt.Tooltip("high:Q", format=".4g"),
        *([alt.Tooltip("n:Q", title="prompts")] if "n" in table.columns else []),
    ]
    base = alt.Chart().encode(x=x, color=color)
    y = alt.Y("value:Q", axis=axis, scale=scale)
    band = base.mark_area(opacity=0.2, interpolate="linear", clip=True).encode(
        y=alt.Y("low:Q", axis=axis, scale=scale), y2="high:Q"
    )
    line = base.mark_line(strokeWidth=2).encode(y=y)
    points = base.mark_point(filled=True, size=55, opacity=1).encode(y=y, tooltip=tooltip)
    if several:
        line = line.encode(strokeDash=alt.StrokeDash("dash:N", sort=list(names), legend=None))
        points = points.encode(shape=alt.Shape("series:N", scale=domain, legend=legend))
    if table["place"].nunique() > _DOTS:
        points = points.mark_point(filled=True, size=20, opacity=0.001)  # still there to hover
    said = " · ".join(note for note in (around, *notes) if note)
    heading = style.heading(title, data.about(about, said))
    width, height = (WIDTH, HEIGHT) if len(shown) == 1 else _PANEL
    return style.panelled(
        [band, line, points],
        data.records(table.drop(columns=["least", "most"])),
        shown,
        heading,
        width=width,
        height=height,
    )
