"""Points: a metric by condition, runs against each other, and runs across many numbers."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from mlux.charts import data, labels, style
from mlux.charts.parts import layers_of
from mlux.charts.scales import means, value_axis
from mlux.errors import ParameterError

_MOST_AXES = 10


def conditions(
    frame: pd.DataFrame,
    *,
    title: str | None = None,
    label: str | None = None,
    logarithmic: bool = False,
) -> alt.LayerChart:
    """A metric that has neither layer nor head: a point with its interval for each condition.

    Args:
        frame: Rows of one metric with `value`, as `compare.layer_results` returns it.
        title: Instead of `METRIC`.
        label: Of the horizontal axis.
        logarithmic: Whether equal steps of the axis are equal factors, for ranks.

    Returns:
        The chart, with 95 % t intervals of the mean over prompts.

    Raises:
        ParameterError: If the frame has no rows or holds several metrics.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"condition": ["a=1", "a=2"], "value": [0.2, 0.4]})
        >>> [row["series"] for row in conditions(frame).to_dict()["data"]["values"]]
        ['a=1', 'a=2']
    """
    frame = data.need(frame, ("value",), "conditions")
    metric = data.one_metric(frame, "conditions")
    _, frame = layers_of(frame)
    names = data.series(frame)
    alone = (data.distinct(frame, "model") or ["all"])[0]
    rows = frame.assign(series=names.where(names != "", labels.short(alone)))
    table, around = means(rows, ["series"], "line")
    y = alt.Y("series:N", sort=None, axis=style.axis(None, labelLimit=300, labelOverlap=False))
    scale, axis = value_axis(table, label or metric, logarithmic, zero=True)
    base = alt.Chart().encode(y=y)
    lines = base.mark_rule(strokeWidth=2, color=style.PALETTE[0], clip=True).encode(
        x=alt.X("low:Q", axis=axis, scale=scale), x2="high:Q"
    )
    dots = base.mark_point(filled=True, size=80, color=style.PALETTE[0], opacity=1).encode(
        x=alt.X("value:Q", axis=axis, scale=scale),
        tooltip=[
            "series:N",
            *(alt.Tooltip(f"{name}:Q", format=".4g") for name in ("value", "low", "high")),
            "n:Q",
        ],
    )
    heading = style.heading(title or metric, data.about(frame, around))
    values = data.records(table.drop(columns=["least", "most"]))
    chart = style.layered([lines, dots], values, heading)
    return chart.properties(width=420, height=alt.Step(30))


def run_scatter(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    color: str | None = None,
    title: str | None = None,
) -> alt.LayerChart:
    """Runs as points: one number against another.

    Args:
        frame: A row a run. Columns `x` and `y` are numbers: of `compare.runs` (`params.top_k`,
            `seconds`), or metrics; tidy results with `metric` and `value` are averaged for each
            run first, so that metrics can be named.
        x: Column or metric.
        y: Column or metric.
        color: What to colour by; by default `model` if there is one.
        title: Instead of `Y against X`.

    Returns:
        The chart; points are named by run.

    Raises:
        ParameterError: If there is no such column or metric, or it is not a number.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"run": ["a", "b"], "seconds": [1.0, 2.0], "score": [0.3, 0.4]})
        >>> run_scatter(frame, x="seconds", y="score").to_dict()["title"]["text"]
        'score against seconds'
    """
    table = _wide(frame, (x, y), "run_scatter")
    color = color or ("model" if "model" in table.columns else "")
    if color:
        data.need(table, (color,), "run_scatter")
    names = data.distinct(table, color)
    drawn = pd.DataFrame(
        {
            "x": table[x],
            "y": table[y],
            "series": [labels.short(str(name), 40) for name in table[color]] if color else "",
            "run": table["run"].astype(str) if "run" in table.columns else "",
        }
    )
    shown = [labels.short(name, 40) for name in names]
    base = alt.Chart().encode(
        x=alt.X("x:Q", axis=style.axis(x), scale=alt.Scale(zero=False, padding=25)),
        y=alt.Y("y:Q", axis=style.axis(y), scale=alt.Scale(zero=False, padding=20)),
    )
    legend = style.legend(color, symbolOpacity=1) if len(names) > 1 else None
    dots = base.mark_point(filled=True, size=90, opacity=0.9).encode(
        color=alt.Color("series:N", scale=style.series_color(shown), legend=legend),
        shape=alt.Shape("series:N", scale=alt.Scale(domain=shown), legend=legend),
        tooltip=["run:N", "series:N", alt.Tooltip("x:Q", title=x), alt.Tooltip("y:Q", title=y)],
    )
    layers = [dots]
    if len(drawn) <= 20:
        layers.append(base.mark_text(dy=-11, fontSize=style.LABEL - 1).encode(text="run:N"))
    heading = style.heading(title or f"{y} against {x}", _of_runs(table))
    chart = style.layered(layers, data.records(drawn), heading)
    return chart.properties(width=440, height=320)


def parallel_coordinates(
    frame: pd.DataFrame, columns: Sequence[str] | None = None, *, title: str | None = None
) -> alt.LayerChart:
    """Each run as a line across several numbers, each scaled from its least to its greatest.

    Args:
        frame: A row a run, as for `run_scatter`.
        columns: What to draw; by default every number that varies: parameters, metrics, seconds.
        title: Instead of `Runs across … numbers`.

    Returns:
        The chart; the ends of each axis carry its least and greatest value.

    Raises:
        ParameterError: If fewer than two columns vary, or there is no such column.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"run": ["a", "b"], "top_k": [1, 5], "score": [0.3, 0.4]})
        >>> len(parallel_coordinates(frame).to_dict()["layer"])
        4
    """
    table = _wide(frame, columns or (), "parallel_coordinates")
    chosen = list(columns or [name for name in table.columns if _varies(table[name])])
    if len(chosen) < 2:
        raise ParameterError(
            f"parallel_coordinates needs two numbers that differ between runs, and these have "
            f"{', '.join(chosen) or 'none'}. Name more with columns=."
        )
    chosen = chosen[:_MOST_AXES]
    color = "model" if "model" in table.columns else "experiment"
    names = [labels.short(name, 40) for name in data.distinct(table, color)] or [""]
    rows, ends = [], []
    for place, name in enumerate(chosen):
        values = pd.to_numeric(table[name]).astype(float)
        least, most = float(values.min()), float(values.max())
        label = labels.numbered(place, name.removeprefix("params."))
        ends += [{"label": label, "y": 0.0, "end": least}, {"label": label, "y": 1.0, "end": most}]
        for number, value in enumerate(values):
            row = table.iloc[number]
            rows.append(
                {
                    "label": label,
                    "number": number,
                    "run": str(row["run"]) if "run" in table.columns else "",
                    "series": labels.short(str(row[color]), 40) if color in table.columns else "",
                    "value": value if value == value else None,
                    "y": (value - least) / ((most - least) or 1) if value == value else None,
                }
            )
    x = alt.X("label:O", axis=style.level(None, labelExpr=labels.UNNUMBERED, orient="top",
                                          labelOverlap=False, labelLimit=150, labelPadding=22,
                                          labelAngle=-20 if len(chosen) > 4 else 0))  # fmt: skip
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[0, 1]))
    base = alt.Chart().encode(x=x, y=y)
    legend = style.legend(color, orient="bottom", symbolOpacity=1) if len(names) > 1 else None
    lines = base.mark_line(strokeWidth=2, opacity=0.7).encode(
        detail="number:N",
        color=alt.Color("series:N", scale=style.series_color(names), legend=legend),
    )
    dots = base.mark_point(filled=True, size=45, opacity=1).encode(
        color=alt.Color("series:N", scale=style.series_color(names), legend=legend),
        tooltip=["run:N", "series:N", "value:Q"],
    )
    rules = base.mark_rule(color="#bbbbbb").encode(y=alt.value(0), y2=alt.value(260))
    marks = alt.Chart(style.values(ends)).encode(x=x, y=y).mark_text(
        fontSize=style.LABEL - 1, color=style.GREY, dy=alt.expr("datum.y == 1 ? -10 : 12")
    ).encode(text=alt.Text("end:Q", format=".3~g"))  # fmt: skip
    heading = style.heading(title or f"Runs across {len(chosen)} numbers", _of_runs(table))
    chart = style.layered([rules, lines, dots, marks], rows, heading)
    return chart.properties(width=alt.Step(120), height=260)


def _of_runs(table: pd.DataFrame) -> list[str]:
    lines = data.about(
        table.drop(columns="prompt", errors="ignore").drop(columns="n", errors="ignore")
    )
    lines = lines or [""]
    return [" · ".join(part for part in (lines[0], f"n = {len(table)} runs") if part), *lines[1:]]


def _wide(frame: pd.DataFrame, columns: Sequence[str], chart: str) -> pd.DataFrame:
    """A row a run; of tidy results the mean of each metric becomes a column."""
    frame = data.need(frame, (), chart)
    if {"metric", "value"} <= set(frame.columns):
        by = [name for name in ("run", "experiment", "model") if name in frame.columns]
        plain = frame.assign(**{name: frame[name].astype(object) for name in [*by, "metric"]})
        means = plain.groupby([*by, "metric"], sort=False)["value"].mean()
        # In the order in which the metrics come; by itself it would be that of the alphabet.
        frame = means.unstack("metric")[data.distinct(frame, "metric")].reset_index()
    frame = data.need(frame, columns, chart)
    for name in columns:
        if pd.to_numeric(frame[name], errors="coerce").isna().all():
            raise ParameterError(f"{chart}: {name} holds no numbers.")
    return frame


def _varies(column: pd.Series) -> bool:
    if not (pd.api.types.is_numeric_dtype(column) or column.map(_is_plain_number).all()):
        return False
    return not pd.api.types.is_bool_dtype(column) and column.nunique() > 1


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
