"""A value as text: exactly for programs, safely for eyes."""

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

LONGEST = 10_000
"""Characters of a cell for eyes; csv and json have all of them."""


class Whole(str):
    """A text that is shown whole or not at all, such as an interval: half of it is another."""

    __slots__ = ()


_MARKS = 3  # combining marks on one letter; more are there to climb over other lines
# How an emoji is drawn; terminals disagree whether that changes its width.
_SELECTORS = dict.fromkeys(range(0xFE00, 0xFE10))


def cell(value: Any) -> str:
    """A value for eyes, on one line and without anything a terminal would obey."""
    value = exact(value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 1e15
        return f"{value:.0f}" if whole else f"{value:.4g}"
    if (
        isinstance(value, list | tuple)
        and value
        and not isinstance(value[0], list | tuple | Mapping)
    ):
        return ", ".join(map(cell, value))
    text = value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}…"
    if text.isascii() and text.isprintable():
        return text
    return _without_towers(printable(text).translate(_SELECTORS))


def printable(text: str) -> str:
    """The text without anything that a terminal would obey: what it would is spelt out."""
    return "".join(c if _is_printable(c) else c.encode("unicode_escape").decode() for c in text)


def _without_towers(text: str) -> str:
    """The text with no more than a few marks on any letter."""
    kept, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks <= _MARKS:
            kept.append(character)
    return "".join(kept)


def _is_printable(character: str) -> bool:
    # Control, format (direction overrides), surrogates; line and paragraph separators.
    return unicodedata.category(character)[0] != "C" and character not in "\u2028\u2029"


def is_number(value: Any) -> bool:
    """Whether it is shown as a number."""
    return isinstance(exact(value), int | float) and not isinstance(value, bool)


def exact(value: Any) -> Any:
    """A scalar of a database or of pandas as Python's own; other values as they are."""
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "isoformat"):  # dates and pandas' timestamps
        return value.isoformat()
    if hasattr(value, "item"):  # numpy's scalars
        return value.item()
    if hasattr(value, "as_tuple"):  # decimals, which PostgreSQL's averages are
        return float(value)
    return value


def in_csv(value: Any) -> Any:
    """A value for a cell of a CSV: what is no scalar is JSON, which other programs read."""
    value = exact(value)
    if isinstance(value, str | int | float | None):
        return value
    return json.dumps(plain(value), ensure_ascii=False)


def plain(value: Any) -> Any:
    """A value that JSON can say; NaN and infinities, which it cannot, become null."""
    value = exact(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
