"""Direct logit attribution as a waterfall: how the parts of a model add up to its answer."""

import altair as alt
import pandas as pd

from mlux.charts import data, labels, style

_MOST = 18


def attribution_waterfall(
    frame: pd.DataFrame,
    *,
    most: int = _MOST,
    title: str | None = None,
    label: str | None = None,
) -> alt.LayerChart:
    """What each component adds to a logit or a logit difference, and the running total.

    Args:
        frame: `value` with `component`; or, as `compare.layer_results` returns it, with
            `condition`, `layer` and `head`, from which components are named `condition L2H3`.
            Prompts are averaged. Components are drawn in the order of the frame.
        most: Only so many components, those with the greatest absolute value; the others are
            added up as `n others`.
        title: Instead of `METRIC by component`.
        label: Of the horizontal axis.

    Returns:
        The chart: orange adds, blue takes away, grey is the total.

    Raises:
        ParameterError: If the frame lacks a column, has no rows, or holds several metrics.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"component": ["embed", "mlp 0"], "value": [1.0, -0.25]})
        >>> attribution_waterfall(frame).to_dict()["data"]["values"][-1]["to"]
        0.75
    """
    frame = data.need(frame, ("value",), "attribution_waterfall")
    metric = data.one_metric(frame, "attribution_waterfall")
    rows = frame.assign(component=_components(frame))
    table = data.over_prompts(rows, ["component"])
    table = _largest(table[["component", "value"]], most)
    table["to"] = table["value"].cumsum()
    table["from"] = table["to"] - table["value"]
    table["kind"] = ["adds" if value >= 0 else "takes away" for value in table["value"]]
    total = float(table["value"].sum())
    end = {"component": "total", "value": total, "from": 0.0, "to": total, "kind": "total"}
    table = pd.concat([table, pd.DataFrame([end])], ignore_index=True)
    table["label"] = [
        labels.numbered(place, labels.short(name, 30))
        for place, name in enumerate(table["component"])
    ]
    return _bars(
        table,
        label=label or metric,
        title=style.heading(title or f"{metric} by component", data.about(frame)),
    )


def _components(frame: pd.DataFrame) -> list[str]:
    if "component" in frame.columns:
        return [str(name) for name in frame["component"]]
    frame = data.need(frame, ("condition", "layer"), "attribution_waterfall")
    heads = frame["head"] if "head" in frame.columns else pd.Series(pd.NA, index=frame.index)
    return [
        component_name(str(condition).rpartition("=")[2], layer, head)
        for condition, layer, head in zip(frame["condition"], frame["layer"], heads, strict=True)
    ]


def component_name(kind: str, layer: object, head: object) -> str:
    """`head L2H3`, `mlp L2`, or the kind alone."""
    place = "" if pd.isna(layer) else f"L{layer}"  # type: ignore[call-overload] # a scalar
    place += "" if pd.isna(head) else f"H{head}"  # type: ignore[call-overload] # a scalar
    return " ".join(part for part in (kind, place) if part) or "all"


def _largest(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """The components with the greatest absolute value in their order, the rest as one."""
    if len(table) <= most:
        return table.reset_index(drop=True)
    chosen = table["value"].abs().nlargest(most - 1).index
    kept, rest = table[table.index.isin(chosen)], table[~table.index.isin(chosen)]
    others = {"component": f"{len(rest)} others", "value": float(rest["value"].sum())}
    return pd.concat([kept, pd.DataFrame([others])], ignore_index=True)


def _bars(table: pd.DataFrame, *, label: str, title: alt.TitleParams) -> alt.LayerChart:
    y = alt.Y(
        "label:O",
        axis=style.axis(None, labelExpr=labels.UNNUMBERED, ticks=False, domain=False,
                        labelOverlap=False, labelLimit=220),
    )  # fmt: skip
    low = min(0.0, float(table[["from", "to"]].min().min()))
    high = max(0.0, float(table[["from", "to"]].max().max()))
    table = table.assign(end=table[["from", "to"]].max(axis=1))
    room = (high - low) * 0.14 or 1.0  # for the number behind the longest bar
    x = alt.X(
        "from:Q",
        axis=style.axis(label),
        scale=alt.Scale(domain=[low, high + room], nice=False),
    )
    colors = alt.Scale(domain=["adds", "takes away", "total"], range=["#e69f00", "#0072b2", "#777"])
    base = alt.Chart().encode(y=y)
    bars = base.mark_bar(height=alt.RelativeBandSize(0.7)).encode(
        x=x,
        x2="to:Q",
        color=alt.Color("kind:N", scale=colors, legend=style.legend(None, orient="bottom")),
        tooltip=["component:N", alt.Tooltip("value:Q", format=".4g"),
                 alt.Tooltip("to:Q", title="running total", format=".4g")],
    )  # fmt: skip
    numbers = base.mark_text(align="left", dx=4, fontSize=style.LABEL - 1, color=style.INK).encode(
        x=alt.X("end:Q", axis=style.axis(label)), text=alt.Text("value:Q", format="+.2f")
    )
    zero = alt.Chart().mark_rule(color=style.GREY).encode(x=alt.datum(0))
    return style.layered([bars, numbers, zero], data.records(table), title).properties(
        width=440, height=alt.Step(22)
    )
