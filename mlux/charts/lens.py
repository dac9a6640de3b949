"""The logit lens as a grid: what the model would say next after each layer."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from mlux.charts import data, labels, style
from mlux.errors import ParameterError

_CELL = (74, 34)
_MOST_COLUMNS = 24
_PROMPT_LABEL = 26


def lens_grid(
    frame: pd.DataFrame,
    tokens: Sequence[str] | None = None,
    *,
    title: str | None = None,
    last: int | None = None,
) -> alt.LayerChart:
    """The most probable next token at each layer and position, with its probability.

    Of a single prompt, columns are its positions. Of several prompts that were each read at one
    position, columns are the prompts.

    Args:
        frame: `layer`, `position`, `rank`, `token`, `probability`, as `compare.predictions`
            returns it, of one run.
        tokens: The token at each position of the prompt, from position 0, to stand below the
            columns; without them positions are numbered.
        title: Instead of `Top token by layer`.
        last: Only so many columns, counted from the end; by default at most 24.

    Returns:
        The chart: viridis from 0 to 1.

    Raises:
        ParameterError: If the frame lacks a column, holds several runs or conditions, or several
            prompts with several positions each.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame({"layer": [0, 1], "position": [2, 2], "rank": [0, 0],
        ...                       "token": ["a", "paris"], "probability": [0.1, 0.9]})
        >>> [row["token"] for row in lens_grid(frame).to_dict()["data"]["values"]]
        ['a', 'paris']
    """
    frame = data.need(frame, ("layer", "position", "rank", "token", "probability"), "lens_grid")
    for name in ("run", "condition"):
        found = data.distinct(frame, name)
        if len(found) > 1:
            raise ParameterError(
                f"lens_grid draws one {name}, this frame has {len(found)}: "
                f"choose frame[frame[{name!r}] == {found[0]!r}]."
            )
    top = frame[(frame["rank"] == 0) & frame["layer"].notna()]
    data.need(top, (), "lens_grid, rows of rank 0")
    shown, axis_title, left_out = _columns(top, tokens, last)
    table = pd.DataFrame(
        {
            "layer": shown["layer"].astype(int),
            "label": shown["label"],
            "token": [labels.token(str(text), 10) for text in shown["token"]],
            "whole": [labels.short(str(text), 60) for text in shown["token"]],
            "value": shown["probability"].astype(float),
        }
    )
    prompt = data.distinct(frame, "prompt")
    notes = [labels.ending(prompt[0], 90)] if len(prompt) == 1 else []
    notes += [f"the last {table['label'].nunique()} of {left_out} columns"] if left_out else []
    return _grid(
        table,
        axis_title=axis_title,
        prompts=len(prompt) > 1,
        title=style.heading(title or "Top token by layer", data.about(frame, *notes)),
    )


def _columns(
    top: pd.DataFrame, tokens: Sequence[str] | None, last: int | None
) -> tuple[pd.DataFrame, str, int]:
    """The rows to show with their `label`, what the columns are, and of how many if not of all."""
    prompts = data.distinct(top, "prompt")
    if len(prompts) > 1:
        texts = top["prompt"].astype(str)
        if top.groupby(texts)["position"].nunique().max() > 1:
            raise ParameterError(
                f"lens_grid draws one prompt, this frame has {len(prompts)} with several positions "
                f"each: choose frame[frame['prompt'] == {prompts[0][:60]!r}]."
            )
        places = {text: place for place, text in enumerate(prompts)}
        order = [places[text] for text in texts]
        names = [labels.ending(text, _PROMPT_LABEL) for text in texts]
        what = "prompt, read at its last position"
    else:
        order = [int(place) for place in top["position"]]
        if tokens is not None and max(order) >= len(tokens):
            raise ParameterError(
                f"The predictions reach position {max(order)}, but {len(tokens)} tokens are given."
            )
        names = [str(place) if tokens is None else labels.token(tokens[place]) for place in order]
        what = "position" if tokens is None else "token read"
    columns = sorted(set(order))
    kept = columns[-(last or _MOST_COLUMNS) :]
    rows = top.assign(
        label=[labels.numbered(place, name) for place, name in zip(order, names, strict=True)],
        column=order,
    )
    hidden = len(columns) if len(kept) < len(columns) else 0
    return rows[rows["column"].isin(kept)], what, hidden


def _grid(
    table: pd.DataFrame, *, axis_title: str, prompts: bool, title: alt.TitleParams
) -> alt.LayerChart:
    angle = -40 if prompts or axis_title == "token read" else 0
    base = alt.Chart().encode(
        x=alt.X(
            "label:O",
            axis=style.axis(
                axis_title, labelExpr=labels.UNNUMBERED, labelAngle=angle, labelOverlap=False,
                ticks=False, domain=False, labelLimit=240,
            ),
        ),
        y=alt.Y("layer:O", sort="descending", axis=style.level("layer")),
    )  # fmt: skip
    cells = base.mark_rect(stroke="white", strokeWidth=1).encode(
        color=alt.Color(
            "value:Q",
            scale=style.value_color(0, 1),
            legend=style.legend("probability", gradientLength=160),
        ),
        tooltip=[
            alt.Tooltip("whole:N", title="top token"),
            alt.Tooltip("value:Q", title="probability", format=".4f"),
            alt.Tooltip("layer:O"),
        ],
    )
    ink = style.ink_on(0, 1)
    words = base.mark_text(fontSize=style.LABEL, dy=-6).encode(text="token:N", color=ink)
    numbers = base.mark_text(fontSize=style.LABEL - 1, dy=8).encode(
        text=alt.Text("value:Q", format=".2f"), color=ink
    )
    width, height = _CELL
    return style.layered([cells, words, numbers], data.records(table), title).properties(
        width=alt.Step(width), height=alt.Step(height)
    )
