"""What every chart shares: sizes that survive print, and colours for every kind of colour vision.

Set on each axis and title instead of in a theme, so that charts can be put beside each other and
beside a person's own (`a | b`), and nobody else's charts change.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from mlux.charts import labels

PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000", "#999933"]
"""Okabe and Ito (2008), without the yellow, which paper does not show."""

LABEL, TITLE, HEADLINE = 12, 13, 15  # points; the smallest text in a chart is LABEL - 1
INK, GREY = "#222222", "#6b6b6b"
MISSING = "#e0e0e0"


def heading(title: str, subtitle: Sequence[str]) -> alt.TitleParams:
    """Title and the lines below it, at the left edge."""
    return alt.TitleParams(
        text=labels.short(title, 90),
        subtitle=[labels.short(line, 110) for line in subtitle],
        anchor="start",
        frame="group",
        fontSize=HEADLINE,
        subtitleFontSize=LABEL,
        subtitleColor=GREY,
        color=INK,
        offset=12,
    )


def axis(title: str | None, **more: Any) -> alt.Axis:
    """An axis with legible labels."""
    return alt.Axis(
        **{
            "title": title,
            "labelFontSize": LABEL,
            "titleFontSize": TITLE,
            "labelColor": INK,
            "titleColor": INK,
            "labelOverlap": True,
            **more,
        }
    )


def level(title: str | None, **more: Any) -> alt.Axis:
    """An axis of whole numbers or names along the bottom, with upright labels."""
    return axis(title, **{"labelAngle": 0, "ticks": False, "domain": False, **more})


def legend(title: str | None, **more: Any) -> alt.Legend:
    """A legend with legible labels."""
    return alt.Legend(
        **{
            "title": title,
            "labelFontSize": LABEL,
            "titleFontSize": LABEL,
            "labelLimit": 420,
            "titleLimit": 260,
            **more,
        }
    )


def header() -> alt.Header:
    """What stands above the panels of a facet."""
    return alt.Header(
        title=None, labelFontSize=TITLE, labelColor=INK, labelAnchor="start", labelLimit=320
    )


def series_color(names: Sequence[str]) -> alt.Scale:
    """A colour for each series: the palette, or steps of viridis for more than it has."""
    if len(names) <= len(PALETTE):
        return alt.Scale(domain=list(names), range=PALETTE[: len(names)])
    return alt.Scale(domain=list(names), scheme="viridis")


def value_color(low: float, high: float) -> alt.Scale:
    """The colours of a heat map: blue to orange around 0 for signed values, else viridis from 0."""
    if low < 0:
        most = max(-low, high)
        return alt.Scale(scheme="blueorange", domain=[-most, most])
    return alt.Scale(scheme="viridis", domain=[0, high if high > 0 else 1])


def ink_on(low: float, high: float, field: str = "value") -> Any:
    """The colour of text that is legible on a cell of `value_color`."""
    if low < 0:
        dark = f"abs(datum.{field}) > {0.65 * max(-low, high)!r}"
    else:
        dark = f"datum.{field} < {0.6 * (high if high > 0 else 1)!r}"
    return alt.condition(dark, alt.value("white"), alt.value(INK))


def some(places: Iterable[Any], most: int) -> list[int]:
    """The layers or heads that get a label: all, or every second, fourth, … of many."""
    whole = sorted({int(place) for place in places})
    every = next(step for step in (1, 2, 4, 8, 16, 10**9) if len(whole) / step <= most)
    return [place for place in whole if place % every == 0]


def powers(most: float) -> list[int]:
    """The labels of a logarithmic scale that begins at 0: 0, 1, 10, 100, … up to the most."""
    return [0, *(10**power for power in range(9) if 10**power <= max(most, 1))]


def step(n: int, *, room: int, least: int, most: int) -> int:
    """Pixels for each of n rows or columns so that they fill the room, within bounds."""
    return max(least, min(most, room // max(n, 1)))


def values(rows: Sequence[dict[str, Any]]) -> alt.Data:
    """Rows inline. Not a DataFrame: Altair would guess types and refuse more than 5,000 rows."""
    return alt.Data(values=list(rows))  # type: ignore[no-untyped-call] # Altair's own


def layered(
    layers: Sequence[alt.Chart], rows: Sequence[dict[str, Any]], title: alt.TitleParams
) -> alt.LayerChart:
    """Layers over the same rows."""
    return alt.LayerChart(layer=list(layers), data=values(rows), title=title)


def panelled(
    layers: Sequence[alt.Chart],
    rows: Sequence[dict[str, Any]],
    panels: Sequence[str],
    title: alt.TitleParams,
    *,
    columns: int | None = None,
    **size: Any,
) -> alt.LayerChart | alt.FacetChart:
    """Layers over the same rows, in a panel for each name in `panel` if there are several.

    Each panel has its own horizontal axis; the vertical one is that of the row.
    """
    if len(panels) == 1:
        return layered(layers, rows, title).properties(**size)
    facet: alt.FacetChart = (
        alt.LayerChart(layer=list(layers))
        .properties(**size)
        .facet(
            facet=alt.Facet("panel:N", sort=list(panels), header=header()),
            columns=columns or (2 if len(panels) in (2, 4) else 3),
            data=values(rows),
            title=title,
        )
        .resolve_axis(x="independent")
    )
    return facet
