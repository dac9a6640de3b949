"""Heat maps: layer × head, layer × position, layer × a number of the conditions, query × key."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from mlux.charts import data, labels, style
from mlux.charts.parts import doses, layers_of
from mlux.errors import ParameterError

Grid = alt.LayerChart | alt.FacetChart

_WRITTEN = 140  # cells of a panel that still have room for their number
_PANELS = 12


def head_heatmap(
    frame: pd.DataFrame,
    *,
    title: str | None = None,
    label: str | None = None,
    logarithmic: bool = False,
) -> Grid:
    """A metric of every head: layer × head, a panel for each run, model or condition.

    Args:
        frame: Rows of one metric with `layer`, `head` and `value`, as `compare.layer_results`
            returns it; prompts and positions are averaged.
        title: Instead of `METRIC by head`.
        label: Of the colours.
        logarithmic: Whether equal steps of colour are equal factors, for ranks.

    Returns:
        The chart: viridis from 0, or blue to orange around 0 where values are negative.

    Raises:
        ParameterError: If the frame lacks a column, has no heads, or holds several metrics.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"layer": [0, 0], "head": [0, 1], "value": [-0.1, 0.9]})
        >>> head_heatmap(frame).to_dict()["layer"][0]["encoding"]["color"]["scale"]["domain"]
        [-0.9, 0.9]
    """
    frame = data.need(frame, ("layer", "head", "value"), "head_heatmap")
    metric = data.one_metric(frame, "head_heatmap")
    layers, frame = layers_of(frame)
    rows = data.need(
        frame[frame["layer"].notna() & frame["head"].notna()], (), "head_heatmap, rows of heads"
    )
    rows = rows.assign(panel=data.series(rows))
    table = data.over_prompts(rows, ["panel", "layer", "head"])
    return _heatmap(
        table,
        x=alt.X("head:O", axis=style.level("head", values=style.some(table["head"], 40))),
        y=_layers(table, layers),
        columns=table["head"].nunique(),
        title=style.heading(title or f"{metric} by head", data.about(rows)),
        label=label or metric,
        tooltip=["layer", "head"],
        logarithmic=logarithmic,
    )


def patching_heatmap(
    frame: pd.DataFrame,
    tokens: Sequence[str] | None = None,
    *,
    title: str | None = None,
    label: str | None = None,
    logarithmic: bool = False,
) -> Grid:
    """An effect by layer and position, with the prompt's tokens below, a panel for each condition.

    Args:
        frame: Rows of one metric with `layer`, `position` and `value`, perhaps `token`; as
            `compare.layer_results` returns it. Several prompts are averaged by position.
        tokens: The token at each position of the prompt, from position 0; without them, and
            without a column `token`, positions are numbered.
        title: Instead of `METRIC by layer and token`.
        label: Of the colours.
        logarithmic: Whether equal steps of colour are equal factors, for ranks.

    Returns:
        The chart, blue to orange around 0 where values are negative.

    Raises:
        ParameterError: If the frame lacks a column, or has a position without a token.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"layer": [0, 0], "position": [0, 1], "value": [0.0, 0.9]})
        >>> chart = patching_heatmap(frame, ["the", "cat"])
        >>> [row["label"] for row in chart.to_dict()["data"]["values"]]
        ['0000 the', '0001 cat']
    """
    frame = data.need(frame, ("layer", "position", "value"), "patching_heatmap")
    metric = data.one_metric(frame, "patching_heatmap")
    layers, frame = layers_of(frame)
    rows = frame[frame["layer"].notna() & frame["position"].notna()]
    rows = data.need(rows, (), "patching_heatmap, rows of positions")
    rows = rows.assign(panel=data.series(rows))
    named = tokens is not None or "token" in rows.columns
    rows["label"] = _token_labels(rows, tokens)
    table = data.over_prompts(rows, ["panel", "layer", "position", "label"])
    what = "token" if named else "position"
    return _heatmap(
        table,
        x=alt.X("label:O", axis=style.axis(
            None if named else what, labelExpr=labels.UNNUMBERED, ticks=False, domain=False,
            labelAngle=-50 if named else 0, labelOverlap=not named,
        )),
        y=_layers(table, layers),
        columns=table["label"].nunique(),
        title=style.heading(title or f"{metric} by {layers} and {what}", data.about(rows)),
        label=label or metric,
        tooltip=["layer", "position", *(["token"] if named else [])],
        logarithmic=logarithmic,
    )  # fmt: skip


def _token_labels(rows: pd.DataFrame, tokens: Sequence[str] | None) -> list[str]:
    positions = [int(place) for place in rows["position"]]
    if tokens is not None:
        if max(positions) >= len(tokens):
            raise ParameterError(
                f"The results reach position {max(positions)}, but {len(tokens)} tokens are given."
            )
        texts = [labels.token(tokens[place]) for place in positions]
    elif "token" in rows.columns:
        texts = [labels.token(str(text)) for text in rows["token"]]
    else:
        texts = [str(place) for place in positions]
    return [labels.numbered(place, text) for place, text in zip(positions, texts, strict=True)]


def condition_heatmap(
    frame: pd.DataFrame,
    *,
    dose: str | None = None,
    title: str | None = None,
    label: str | None = None,
    logarithmic: bool = False,
) -> Grid:
    """A metric by layer and by a number of the conditions, such as the layer a patch comes from.

    Args:
        frame: Rows of one metric with `layer`, `value` and `condition`, as
            `compare.layer_results` returns it; prompts, heads and positions are averaged.
        dose: The number's name; by default the only numeric part of the conditions that varies. If
            it is `source_layer`, the layers are those of the target.
        title: Instead of `METRIC by layer and DOSE`.
        label: Of the colours.
        logarithmic: Whether equal steps of colour are equal factors, for ranks.

    Returns:
        The chart, a panel for what else tells conditions apart.

    Raises:
        ParameterError: If the frame lacks a column, or no such number can be found.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"condition": ["source=1", "source=2"], "layer": [0, 0],
        ...                       "value": [0.1, 0.9]})
        >>> condition_heatmap(frame).to_dict()["title"]["text"]
        'value by layer and source'
    """
    frame = data.need(frame, ("layer", "value", "condition"), "condition_heatmap")
    metric = data.one_metric(frame, "condition_heatmap")
    layers, frame = layers_of(frame)
    name, numbers, rest = doses(frame, dose)
    rows = frame.assign(dose=numbers, condition=rest)
    rows = data.need(
        rows[rows["layer"].notna() & rows["dose"].notna()], (), "condition_heatmap, rows of layers"
    )
    rows = rows.assign(panel=data.series(rows))
    table = data.over_prompts(rows, ["panel", "layer", "dose"])
    shown = name.replace("_", " ")
    if name == "source_layer":
        layers = f"target {layers}"
    whole = bool((table["dose"] % 1 == 0).all())
    ticks = {"values": style.some(table["dose"], 40)} if whole else {}
    return _heatmap(
        table,
        x=alt.X("dose:O", axis=style.level(shown, **ticks)),
        y=_layers(table, layers),
        columns=table["dose"].nunique(),
        title=style.heading(title or f"{metric} by {layers} and {shown}", data.about(rows)),
        label=label or metric,
        tooltip=["layer", "dose"],
        logarithmic=logarithmic,
    )


def pattern_frame(pattern: Any, tokens: Sequence[str]) -> pd.DataFrame:
    """One head's attention pattern as rows.

    Args:
        pattern: Attention from each query to each key, [query, key]; NumPy, MLX or nested lists.
        tokens: The token at each position.

    Returns:
        `query`, `key`, `query_token`, `key_token`, `value`; keys after the query are left out.

    Raises:
        ParameterError: If the pattern is not square or does not fit the tokens.

    Example:
        >>> len(pattern_frame([[1.0, 0.0], [0.3, 0.7]], ["a", "b"]))
        3
    """
    grid = np.asarray(pattern.tolist() if hasattr(pattern, "tolist") else pattern, dtype=float)
    if grid.shape != (len(tokens), len(tokens)):
        raise ParameterError(
            f"The pattern is of shape {list(grid.shape)} for {len(tokens)} tokens; give one head "
            "of one prompt, [query, key]."
        )
    query, key = np.tril_indices(len(tokens))
    return pd.DataFrame(
        {
            "query": query,
            "key": key,
            "query_token": [tokens[int(place)] for place in query],
            "key_token": [tokens[int(place)] for place in key],
            "value": grid[query, key],
        }
    )


def attention_pattern(
    frame: pd.DataFrame, *, title: str | None = None, subtitle: str | None = None
) -> Grid:
    """Where a head looks: query × key, with the tokens at both sides, a panel for each head.

    Args:
        frame: `query`, `key`, `query_token`, `key_token`, `value`, as `pattern_frame` makes it;
            `layer` and `head`, or `panel`, tell several patterns apart.
        title: Instead of `Attention pattern`.
        subtitle: A line below it, such as model and head.

    Returns:
        The chart: viridis from 0 to 1.

    Raises:
        ParameterError: If the frame lacks a column or has no rows.

    Example:
        >>> frame = pattern_frame([[1.0, 0.0], [0.3, 0.7]], ["a", "b"])
        >>> attention_pattern(frame, title="Head 0.1").to_dict()["title"]["text"]
        'Head 0.1'
    """
    names = ("query", "key", "query_token", "key_token", "value")
    frame = data.need(frame, names, "attention_pattern")
    rows = frame.assign(panel=_panel_of_heads(frame))
    for side in ("query", "key"):
        rows[side] = [
            labels.numbered(int(place), labels.token(str(text)))
            for place, text in zip(frame[side], frame[f"{side}_token"], strict=True)
        ]
    table = rows[["panel", "query", "key", "value"]]
    shown = {"labelExpr": labels.UNNUMBERED, "ticks": False, "domain": False, "labelOverlap": False}
    return _heatmap(
        table,
        x=alt.X("key:O", axis=style.axis("key: looked at", labelAngle=-50, **shown)),
        y=alt.Y("query:O", axis=style.axis("query: looks", **shown)),
        columns=table["key"].nunique(),
        title=style.heading(
            title or "Attention pattern",
            data.about(frame, *([subtitle] if subtitle else [])),
        ),
        label="attention",
        tooltip=["query", "key"],
        domain=(0.0, 1.0),
        rows="query",
    )


def _panel_of_heads(frame: pd.DataFrame) -> Any:
    if "panel" in frame.columns:
        return frame["panel"].astype(str)
    if "layer" in frame.columns and "head" in frame.columns:
        pairs = zip(frame["layer"], frame["head"], strict=True)
        return [f"layer {layer}, head {head}" for layer, head in pairs]
    return ""


def _layers(table: pd.DataFrame, name: str) -> alt.Y:
    """Layers upwards, as the residual stream is drawn."""
    axis = style.level(name, values=style.some(table["layer"], 40))
    return alt.Y("layer:O", sort="descending", axis=axis)


def _heatmap(
    table: pd.DataFrame,
    *,
    x: alt.X,
    y: alt.Y,
    columns: int,
    title: alt.TitleParams,
    label: str,
    tooltip: Sequence[str],
    domain: tuple[float, float] | None = None,
    rows: str = "layer",
    logarithmic: bool = False,
) -> Grid:
    """Cells, their numbers where there is room, and a panel for each name in `panel`."""
    low, high = domain or data.bounds(table["value"])
    panels = list(dict.fromkeys(table["panel"]))
    if len(panels) > _PANELS:
        raise ParameterError(
            f"This would be {len(panels)} panels, more than the {_PANELS} that can be read; "
            f"choose fewer runs or conditions. The first are {', '.join(panels[:3])}."
        )
    n_rows = table[rows].nunique()
    per_row = 1 if columns > 12 else None
    room = 620 if per_row or len(panels) == 1 else 300
    width = style.step(columns, room=room, least=14, most=46)
    height = style.step(n_rows, room=420, least=11, most=32)
    table = table.assign(token=table["label"].str[5:]) if "label" in table.columns else table
    field, shades, ticks = "value", (low, high), dict[str, Any](tickCount=5)
    if logarithmic:  # by hand: Vega draws the legend of a logarithmic scale in other colours
        table = table.assign(shade=np.log1p(table["value"].clip(lower=0)))
        field, shades = "shade", (0.0, float(np.log1p(max(high, 1))))
        # 1 lies on 0 where there is more.
        powers = [power for power in style.powers(high) if power != 1 or high < 10]
        ticks = {"values": np.log1p(powers).tolist(),
                 "labelExpr": "format(round(exp(datum.value) - 1), ',')"}  # fmt: skip
    base = alt.Chart().encode(x=x, y=y)
    cells = base.mark_rect(stroke="white", strokeWidth=0.5).encode(
        color=alt.Color(
            f"{field}:Q",
            scale=style.value_color(*shades),
            legend=style.legend(label, gradientLength=max(100, min(220, n_rows * height)), **ticks),
        ),
        tooltip=[
            *(f"{name}:N" for name in tooltip),
            alt.Tooltip("value:Q", title=label, format=".4g"),
        ],
    )
    layers: list[alt.Chart] = [cells]
    if columns * n_rows <= _WRITTEN and width >= 34 and height >= 18:
        layers.append(
            base.mark_text(fontSize=style.LABEL - 1).encode(
                text=alt.Text("value:Q", format=_number_format(low, high)),
                color=style.ink_on(*shades, field=field),
            )
        )
    size = {"width": alt.Step(width), "height": alt.Step(height)}
    return style.panelled(layers, data.records(table), panels, title, columns=per_row, **size)


def _number_format(low: float, high: float) -> str:
    largest = max(abs(low), abs(high))
    return ".2f" if largest < 10 else ".1f" if largest < 1000 else ".3~s"  # "~s": 1.8m is 0.0018
