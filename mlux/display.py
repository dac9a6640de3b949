"""How things look in a notebook: a small table, with every text escaped. Standard library only."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_LONGEST = 200
_CELL = "text-align:left;padding:2px 12px 2px 0;vertical-align:top"


def _text(value: Any) -> str:
    text = str(value)
    return escape(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def facts(title: str, values: Mapping[str, Any]) -> str:
    """A title and a row for each fact; those without a value are left out.

    Example:
        >>> "&lt;b&gt;" in facts("run", {"note": "<b>", "error": None})
        True
    """
    rows = [(name, value) for name, value in values.items() if value not in (None, "", {}, ())]
    return _page(title, (), rows)


def rows(title: str, columns: Sequence[str], values: Iterable[Sequence[Any]]) -> str:
    """A title and a table.

    Example:
        >>> rows("cache", ("path", "shape"), [("model.norm", [1, 2])]).count("<tr>")
        2
    """
    return _page(title, columns, values)


def _page(title: str, columns: Sequence[str], values: Iterable[Sequence[Any]]) -> str:
    head = "".join(f'<th style="{_CELL}">{_text(name)}</th>' for name in columns)
    lines = [
        "<tr>" + "".join(f'<td style="{_CELL}">{_text(cell)}</td>' for cell in row) + "</tr>"
        for row in values
    ]
    above = f"<thead><tr>{head}</tr></thead>" if columns else ""
    return (
        f"<div><strong>{_text(title)}</strong>"
        f"<table>{above}<tbody>{''.join(lines)}</tbody></table></div>"
    )
