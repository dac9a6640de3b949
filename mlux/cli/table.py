"""A table for eyes, as wide as the terminal, or as wide as it is where stdout is none."""

import shutil
import sys
from collections.abc import Collection, Sequence
from typing import Any

import click

from mlux.cli.cells import Whole, cell, is_number
from mlux.cli.layout import GAP, cells_width, fit, padded, shortened

Rows = Sequence[Sequence[Any]]
MARK = "*"


def on_terminal() -> bool:
    """Whether a person looks at stdout."""
    return sys.stdout.isatty()


def marked_cells(rows: Rows, marks: Collection[tuple[int, int]]) -> list[list[str]]:
    """The values as text, the marked ones with a sign, the others of their columns with a space."""
    columns = {column for _, column in marks}
    places = set(marks)

    def text(row: int, column: int, value: Any) -> str:
        sign = MARK if (row, column) in places else " " if column in columns else ""
        return cell(value) + sign

    return [[text(i, j, value) for j, value in enumerate(row)] for i, row in enumerate(rows)]


def print_table(columns: list[str], rows: Rows, marks: Collection[tuple[int, int]] = ()) -> None:
    """Prints a table; columns for which the terminal has no room are named on stderr.

    Args:
        columns: Their names, safe to print.
        rows: The values.
        marks: Row and column of what is marked.
    """
    cells = marked_cells(rows, marks)
    numeric = [_is_numeric([row[i] for row in rows]) for i in range(len(columns))]
    titles = [
        f"{name} " if number and any(place == column for _, column in marks) else name
        for place, (name, number) in enumerate(zip(columns, numeric, strict=True))
    ]
    natural = [max(map(cells_width, column)) for column in zip(titles, *cells, strict=True)]
    if not on_terminal():
        for line in [titles, *cells]:
            click.echo("  ".join(map(padded, line, natural, numeric)).rstrip())
        return
    widths = fit(natural, numeric, shutil.get_terminal_size().columns)
    click.echo(click.style(_line(titles, widths, numeric), bold=True))
    click.echo("─" * (sum(widths) + GAP * (len(widths) - 1)))
    for number, texts in enumerate(cells):
        click.echo(
            _line(texts, widths, numeric, {column for row, column in marks if row == number})
        )
    if hidden := columns[len(widths) :]:
        click.echo(
            f"Not shown for want of width: {', '.join(hidden)}. --format csv has every column.",
            err=True,
        )


def _line(
    cells: list[str], widths: list[int], numeric: list[bool], bold: Collection[int] = ()
) -> str:
    fitting = (shortened(text, width) for text, width in zip(cells, widths, strict=False))
    places = enumerate(map(padded, fitting, widths, numeric))
    shown = (click.style(text, bold=True) if place in bold else text for place, text in places)
    return (" " * GAP).join(shown).rstrip()


def _is_numeric(values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(is_number(value) or isinstance(value, Whole) for value in known)
