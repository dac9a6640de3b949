"""Text and numbers of a report, fit for a page: nothing in them acts, and nothing is too long."""

from typing import Any

import pandas as pd

from mlux.charts.labels import printable

LONGEST = 2_000
"""Characters of a text that a report shows."""


def shown(value: Any, longest: int | None = LONGEST) -> str:
    """A text on one line, with control characters and direction marks written out, cut if long."""
    text = str(value)
    cut = text[:longest]
    return printable(cut) + (f"… [{len(text):,} characters]" if len(text) > len(cut) else "")


def paragraphs(value: Any, longest: int = LONGEST) -> str:
    """The same, with its line breaks kept."""
    text = str(value)
    lines = [printable(line) for line in text[:longest].split("\n")]
    return "\n".join(lines) + (f"… [{len(text):,} characters]" if len(text) > longest else "")


def number(value: Any) -> str:
    """Four significant digits; what is missing is empty."""
    if pd.isna(value):  # None, NaN and pandas' NA, which has no truth value to compare by
        return ""
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return f"{value:.0f}" if abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:.4g}"
