"""Tables and records on stdout in four formats, notes on stderr.

`table` and `markdown` are for eyes: numbers are rounded to four digits. `csv` and `json` are for
programs and carry every digit. A table fits the terminal, and has its full width where stdout is
none.
"""

import csv
import json
import math
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlux.cli.layout import cells_width, fit, padded

if TYPE_CHECKING:
    from pandas import DataFrame

FORMATS = ("table", "csv", "json", "markdown")
FOR_EYES = ("table", "markdown")
LONGEST = 10_000  # characters of a cell for eyes; csv and json have all of them
Rows = Sequence[Sequence[Any]]
Command = TypeVar("Command", bound=Callable[..., Any])


def format_option(command: Command) -> Command:
    """Adds `--format` and `--json` to a command that prints a table; it receives `output`."""
    return click.option(
        "--format",
        "output",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="How to print it.",
    )(click.option("--json", "output", flag_value="json", help="Short for --format json.")(command))


def json_option(command: Command) -> Command:
    """Adds `--json` to a command that prints no table; it receives `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")(command)


def on_terminal() -> bool:
    """Whether a person looks at stdout."""
    return sys.stdout.isatty()


def note(message: str) -> None:
    """Something for the person, not for the program that reads stdout."""
    click.echo(message, err=True)


def show_json(document: Any) -> None:
    """Prints one JSON document."""
    click.echo(json.dumps(_plain(document), indent=2, ensure_ascii=False))


def show_records(
    records: Sequence[Mapping[str, Any]], output: str, columns: Sequence[str] | None = None
) -> None:
    """Prints mappings as a table.

    Args:
        records: The rows, all with the same keys.
        output: One of `FORMATS`.
        columns: The keys worth a place in `table` and `markdown`; csv and json have them all.
    """
    keys = list(records[0]) if records else list(columns or ())
    if columns and output in FOR_EYES:
        keys = list(columns)
    show_table(keys, [[record[key] for key in keys] for record in records], output)


def show_table(columns: Sequence[str], rows: Rows, output: str) -> None:
    """Prints columns and rows in one of `FORMATS`."""
    if output == "json":
        names = _unique(columns)
        show_json([dict(zip(names, row, strict=True)) for row in rows])
    elif output == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_exact(value) for value in row] for row in rows)
    elif output == "markdown":
        _markdown([_cell(name) for name in columns], [[_cell(v) for v in row] for row in rows])
    else:
        _table([_cell(name) for name in columns], rows)


def show_part(title: str, part: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Prints a title and below it a line for each field, or a table of records, for eyes."""
    if not part:  # such as the tags of a run without tags
        return
    click.echo(click.style(_cell(title), bold=True))
    if not isinstance(part, Mapping):
        show_records(part, "table")
    else:
        fields = dict(_flat(part))
        width = max(map(cells_width, fields))
        for name, value in fields.items():
            click.echo(f"  {padded(name, width)}  {_cell(value)}".rstrip())
    click.echo()


def _flat(part: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Fields and the fields inside them, as `tokenizer.name`."""
    for name, value in part.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{_cell(name)}.")
        else:
            yield before + _cell(name), value


def show_frame(frame: "DataFrame", output: str) -> None:
    """Prints a pandas DataFrame; what is missing in it is empty."""
    present = frame.astype(object).where(frame.notna(), None)
    show_table([str(name) for name in frame.columns], present.to_numpy().tolist(), output)


def _table(columns: list[str], rows: Rows) -> None:
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [
        any(_is_number(row[i]) for row in rows)
        and all(row[i] is None or _is_number(row[i]) for row in rows)
        for i in range(len(columns))
    ]
    natural = [max(map(cells_width, column)) for column in zip(columns, *cells, strict=True)]
    if not on_terminal():
        for line in [columns, *cells]:
            row = map(padded, line, natural, numeric)
            click.echo("  ".join(row).rstrip())
        return
    widths = fit(natural, numeric, shutil.get_terminal_size().columns)
    _rich_table(columns, cells, widths, numeric)
    if hidden := columns[len(widths) :]:
        note(f"Not shown for want of width: {', '.join(hidden)}. --format csv has every column.")


def _rich_table(
    columns: list[str], cells: list[list[str]], widths: list[int], numeric: list[bool]
) -> None:
    # Imported here: rich costs 80 ms, and a pipe needs none of it.
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for name, width, number in zip(columns, widths, numeric, strict=False):
        justify = "right" if number else "left"
        table.add_column(Text(name), width=width, no_wrap=True, justify=justify)  # type: ignore[arg-type] # mypy widens the literals
    for row in cells:
        # Text, not str: a prompt with [brackets] is not rich's markup.
        table.add_row(*(Text(cell, overflow="ellipsis") for cell in row[: len(widths)]))
    Console(highlight=False).print(table)


def _markdown(columns: list[str], rows: list[list[str]]) -> None:
    for line in [columns, ["---"] * len(columns), *rows]:
        click.echo("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |")


def _cell(value: Any) -> str:
    """A value for eyes, on one line and without anything a terminal would obey."""
    value = _exact(value)
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
        return ", ".join(map(_cell, value))
    text = value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}…"
    return "".join(c if _is_printable(c) else c.encode("unicode_escape").decode() for c in text)


def _is_printable(character: str) -> bool:
    # Control, format (direction overrides), surrogates; line and paragraph separators.
    return unicodedata.category(character)[0] != "C" and character not in "\u2028\u2029"


def _is_number(value: Any) -> bool:
    return isinstance(_exact(value), int | float) and not isinstance(value, bool)


def _exact(value: Any) -> Any:
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


def _plain(value: Any) -> Any:
    """A value that JSON can say; NaN and infinities, which it cannot, become null."""
    value = _exact(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _unique(names: Sequence[str]) -> list[str]:
    """`SELECT 1 AS a, 2 AS a` has two columns of one name; an object has room for one."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}:{seen[name]}")
    return unique
