"""The tables of a report as names and rows of text, the same for HTML and Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mlux.charts import data
from mlux.compare.differences import counts
from mlux.report.content import LEVEL, Comparison, Section
from mlux.report.text import number, paragraphs, shown


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text; `marked` are the numbers of rows that stand out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()


_TITLES = {
    "n": "prompts",
    "n_lost": "lost",
    "estimate": "difference",
    "low": "from",
    "high": "to",
    "effect": "d",
    "size": "of largest mean",
}


def differences(comparison: Comparison) -> Table | None:
    """The rows of a comparison, those that count marked; None if it was refused."""
    frame = comparison.table
    if frame is None:
        return None
    if "n_lost" in frame.columns and not frame["n_lost"].any():
        frame = frame.drop(columns="n_lost")
    rows = [tuple(map(_cell, row)) for row in frame.astype(object).to_numpy().tolist()]
    titles = _TITLES | {"mean_a": comparison.names[0], "mean_b": comparison.names[1]}
    return Table(
        columns=tuple(shown(titles.get(str(name), name), 60) for name in frame.columns),
        rows=tuple(rows),
        marked=frozenset(np.flatnonzero(counts(frame, LEVEL)).tolist()),
    )


def _cell(value: Any) -> str:
    return shown(value, 200) if isinstance(value, str) else number(value)


def texts(section: Section) -> Table | None:
    """What the models wrote, a row for each prompt, a column for each run, model or condition."""
    frame = section.texts
    if not len(frame):
        return None
    names = data.series(frame)
    frame = frame.assign(series=names.where(names != "", "text"))
    columns = list(dict.fromkeys(frame["series"]))
    rows = [
        (paragraphs(prompt, 500), *(_joined(part[part["series"] == name]) for name in columns))
        for prompt, part in frame.groupby(frame["prompt"].astype(object), sort=False)
    ]
    return Table(columns=("prompt", *columns), rows=tuple(rows))


def _joined(rows: pd.DataFrame) -> str:
    samples: Sequence[str] = [paragraphs(text) for text in rows["text"]]
    return "\n—\n".join(samples)
