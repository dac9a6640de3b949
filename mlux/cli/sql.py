"""`mlux sql`."""

import sys

import click

from mlux.cli.groups import examples
from mlux.cli.options import Limited
from mlux.cli.output import format_option, note, show_table
from mlux.cli.settings import Settings, pass_settings


@click.command(
    epilog=examples(
        'mlux sql "SELECT run, experiment, model FROM run_overview"',
        'mlux sql --format csv "SELECT * FROM results" > results.csv',
        "mlux sql - < question.sql",
    )
)
@click.argument("statement")
@click.option("--max-rows", metavar="N", type=Limited("max_rows"), help="Stop after so many rows.")
@click.option(
    "--timeout",
    "--seconds",
    "seconds",
    metavar="SECONDS",
    type=Limited("timeout"),
    default=60.0,
    show_default=True,
    help="Stop after so long.",
)
@format_option
@pass_settings
def command(
    settings: Settings, statement: str, max_rows: int | None, seconds: float, output: str
) -> None:
    """Ask the database in read-only SQL.

    STATEMENT is one SELECT, or - to read it from stdin. The views run_overview,
    results, predictions and others have names where the tables have ids. On
    SQLite there are median(x) and stddev(x), too.
    """
    from mlux import store

    text = sys.stdin.read() if statement == "-" else statement
    columns, rows = store.query(settings.read(), text, max_rows=max_rows, seconds=seconds)
    show_table(columns, rows, output)
    if max_rows is not None and len(rows) == max_rows:
        note(f"Stopped after {max_rows} rows; there may be more.")
