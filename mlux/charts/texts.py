"""What models wrote, side by side."""

import altair as alt
import pandas as pd

from mlux.charts import data, labels, style

_COLUMN, _CHARACTERS, _LINE = 270, 38, 17
_LINES = 8


def generations(
    frame: pd.DataFrame,
    *,
    most_prompts: int = 6,
    most_columns: int = 4,
    title: str | None = None,
) -> alt.LayerChart:
    """Texts side by side: a row for each prompt, a column for each run, model or condition.

    Args:
        frame: `prompt` and `text`, as `compare.generations` returns it.
        most_prompts: Only the first so many.
        most_columns: Only so many runs, models or conditions, from the first to the last.
        title: Instead of `Generations`.

    Returns:
        The chart; a text keeps at most 8 lines, and its tooltip has more of it.

    Raises:
        ParameterError: If the frame lacks a column or has no rows.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"prompt": ["a b"], "text": ["c d"], "model": ["demo"]})
        >>> [row["text"] for row in generations(frame).to_dict()["data"]["values"]]
        ['a b', 'c d']
    """
    frame = data.need(frame, ("prompt", "text"), "generations")
    names = data.series(frame)
    rows = frame.assign(series=names.where(names != "", "text"))
    every = list(dict.fromkeys(rows["series"]))
    columns = _spread(every, most_columns)
    prompts = data.distinct(rows, "prompt")
    drawn: list[data.Record] = []
    top = 0
    for prompt in prompts[:most_prompts]:
        of_prompt = rows[rows["prompt"].astype(object) == prompt]
        ask = labels.wrapped(prompt, _CHARACTERS * len(columns), 2)
        drawn += _lines(ask, top, columns[0], "prompt", prompt)
        top += len(ask)
        longest = 0
        for name in columns:
            texts = [str(text) for text in of_prompt[of_prompt["series"] == name]["text"]]
            lines = [
                line for text in texts[:3] for line in labels.wrapped(text, _CHARACTERS, _LINES)
            ]
            drawn += _lines(lines, top, name, "text", texts[0] if texts else "")
            longest = max(longest, len(lines))
        top += longest + 1
    hidden = len(prompts) - most_prompts
    notes = [f"the first {most_prompts} of {len(prompts)} prompts"] if hidden > 0 else []
    if len(columns) < len(every):
        notes.append(f"{len(columns)} of {len(every)} columns")
    heading = style.heading(title or "Generations", data.about(frame, *notes))
    return _written(drawn, columns, top, heading)


def _spread(names: list[str], most: int) -> list[str]:
    """At most so many, evenly from the first to the last."""
    if len(names) <= most:
        return names
    return [names[round(place * (len(names) - 1) / max(most - 1, 1))] for place in range(most)]


def _lines(lines: list[str], top: int, column: str, kind: str, whole: str) -> list[data.Record]:
    tip = labels.short(whole, 400)
    return [
        {"text": line, "line": top + place, "column": column, "kind": kind, "whole": tip}
        for place, line in enumerate(lines)
    ]


def _written(
    drawn: list[data.Record], columns: list[str], n_lines: int, heading: alt.TitleParams
) -> alt.LayerChart:
    base = (
        alt.Chart()
        .mark_text(align="left", baseline="top", fontSize=style.LABEL, dx=-_COLUMN // 2 + 4)
        .encode(
            x=alt.X("column:N", sort=columns, axis=style.level(
                None, orient="top", labelLimit=_COLUMN - 10, labelFontWeight="bold",
            )),
            y=alt.Y("line:Q", axis=None, scale=alt.Scale(domain=[-0.4, n_lines], reverse=True,
                                                          nice=False, zero=False)),
            text="text:N",
            tooltip=alt.Tooltip("whole:N", title="text"),
        )
    )  # fmt: skip
    prompts = base.transform_filter("datum.kind == 'prompt'").encode(color=alt.value(style.GREY))
    texts = base.transform_filter("datum.kind == 'text'").encode(color=alt.value(style.INK))
    chart = style.layered([prompts, texts], drawn, heading)
    return chart.properties(width=alt.Step(_COLUMN), height=n_lines * _LINE)
