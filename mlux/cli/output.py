"""Tables and records on stdout in four formats, notes on stderr.

`table` and `markdown` are for eyes: numbers are rounded to four digits. `csv` and `json` are for
programs and carry every digit. A table fits the terminal, and has its full width where stdout is
none.
"""

import csv
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlux.cli.cells import cell, in_csv, plain, printable
from mlux.cli.layout import cells_width, padded
from mlux.cli.table import Rows, marked_cells, print_table

if TYPE_CHECKING:
    from pandas import DataFrame

FORMATS = ("table", "csv", "json", "markdown")
FOR_EYES = ("table", "markdown")
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


def note(message: str) -> None:
    """Something for the person, not for the program that reads stdout."""
    click.echo("\n".join(map(printable, message.split("\n"))), err=True)


def sentence(text: str) -> None:
    """A note of many words; where a person reads it in a terminal, no word is cut by its edge."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
    note(text)


def show_json(document: Any) -> None:
    """Prints one JSON document."""
    click.echo(json.dumps(plain(document), indent=2, ensure_ascii=False))


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


def show_table(
    columns: Sequence[str], rows: Rows, output: str, *, marks: Collection[tuple[int, int]] = ()
) -> None:
    """Prints columns and rows in one of `FORMATS`.

    Args:
        columns: Their names.
        rows: The values.
        output: One of `FORMATS`.
        marks: Row and column of what is marked with * for eyes, such as the best value.
    """
    if output == "json":
        names = _unique(columns)
        show_json([dict(zip(names, row, strict=True)) for row in rows])
    elif output == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([in_csv(value) for value in row] for row in rows)
    elif output == "markdown":
        _markdown([cell(name) for name in columns], marked_cells(rows, marks))
    else:
        print_table([cell(name) for name in columns], rows, marks)


def show_part(title: str, part: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Prints a title and below it a line for each field, or a table of records, for eyes.

    A field that holds records is a table of its own, below the others.
    """
    if not part:  # such as the tags of a run without tags
        return
    tables: dict[str, Any] = {}
    click.echo(click.style(cell(title), bold=True))
    if not isinstance(part, Mapping):
        show_records(part, "table")
    else:
        fields = dict(_flat(part))
        tables = {name: value for name, value in fields.items() if _is_records(value)}
        width = max(map(cells_width, fields))
        for name, value in fields.items():
            if name not in tables:
                click.echo(f"  {padded(name, width)}  {cell(value)}".rstrip())
    click.echo()
    for name, records in tables.items():
        show_part(f"{title}: {name}", records)


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _flat(part: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Fields and the fields inside them, as `tokenizer.name`."""
    for name, value in part.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{cell(name)}.")
        else:
            yield before + cell(name), value


def show_frame(frame: "DataFrame", output: str, *, marks: Collection[tuple[int, str]] = ()) -> None:
    """Prints a pandas DataFrame; what is missing in it is empty.

    Args:
        frame: The table; its index is not shown.
        output: One of `FORMATS`.
        marks: Row and name of the column of what is marked with * for eyes.
    """
    present = frame.astype(object).where(frame.notna(), None)
    columns = [str(name) for name in frame.columns]
    places = {(row, columns.index(name)) for row, name in marks if name in columns}
    show_table(columns, present.to_numpy().tolist(), output, marks=places)


def _markdown(columns: list[str], rows: list[list[str]]) -> None:
    for line in [columns, ["---"] * len(columns), *rows]:
        click.echo("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |")


def _unique(names: Sequence[str]) -> list[str]:
    """`SELECT 1 AS a, 2 AS a` has two columns of one name; an object has room for one."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}:{seen[name]}")
    return unique
