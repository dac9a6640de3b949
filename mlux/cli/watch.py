"""`mlux runs watch`: the runs that are under way, as they go."""

import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from mlux.cli.groups import examples
from mlux.cli.layout import cells_width, fit
from mlux.cli.output import format_option, note, show_records
from mlux.cli.settings import Settings, pass_settings
from mlux.cli.table import on_terminal

COLUMNS = ("run", "experiment", "model", "status", "trials", "failed", "elapsed", "left")
UNDER_WAY = ("queued", "running")
Record = dict[str, Any]


@click.command(
    "watch", epilog=examples("mlux runs watch", "mlux runs watch --once", "mlux runs watch | cat")
)
@click.option("--once", is_flag=True, help="Print the present state and leave.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@format_option
@pass_settings
def watch(settings: Settings, once: bool, interval: float, output: str) -> None:
    """Watch the runs that are under way; Ctrl-C leaves.

    Shows how far each has come and how long it will take. Where stdout is no
    terminal, it prints what has changed and ends when nothing runs any more.
    """
    from mlux import store

    database = settings.read()

    def look() -> list[Record]:
        runs = [run for run in store.list_runs(database) if run["status"] in UNDER_WAY]
        return [_record(run, datetime.now(UTC)) for run in runs]

    if once or output != "table":
        _show_once(look(), output)
        return
    try:
        if on_terminal():
            _live(look, interval)
        else:
            _lines(look, lambda uid: _ending(store.list_runs(database), uid), interval)
    except KeyboardInterrupt:
        note("")


def _show_once(records: list[Record], output: str) -> None:
    show_records(records, output, COLUMNS)
    if not records:
        note("No run is under way.")


def _record(run: Mapping[str, Any], at: datetime) -> Record:
    """How far a run has come; the time left is judged by its pace so far."""
    started = datetime.fromisoformat(run["started"]) if run["started"] else None
    elapsed = (at - started).total_seconds() if started else None
    gone = run["done"] + run["failed"]
    left = elapsed / gone * (run["trials"] - gone) if elapsed and gone else None
    return {
        "run": run["run"],
        "experiment": run["experiment"],
        "model": run["model"],
        "status": run["status"],
        "trials": f"{run['done']}/{run['trials']}",
        "failed": run["failed"],
        "elapsed": _clock(elapsed),
        "left": _clock(left),
    }


def _clock(seconds: float | None) -> str:
    """`3:07` or `1:02:45`."""
    if seconds is None:
        return ""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _lines(look: Callable[[], list[Record]], ending: Callable[[str], str], interval: float) -> None:
    """A line for each change, until nothing runs any more."""
    before: dict[str, str] = {}
    while True:
        records = look()
        now = {record["run"]: f"{record['trials']} {record['status']}" for record in records}
        for record in records:
            if before.get(record["run"]) != now[record["run"]]:
                click.echo("  ".join(str(record[name]) for name in COLUMNS if record[name] != ""))
        for uid in before.keys() - now.keys():
            click.echo(f"{uid}  {ending(uid)}")
        if not records:
            if not before:
                note("No run is under way.")
            return
        before = now
        time.sleep(interval)


def _ending(runs: list[Record], uid: str) -> str:
    return next((str(run["status"]) for run in runs if run["run"] == uid), "deleted")


def _live(look: Callable[[], list[Record]], interval: float) -> None:
    """A table in place, until Ctrl-C."""
    from rich.live import Live

    with Live(_table(look()), auto_refresh=False, transient=False) as live:
        while True:
            live.update(_table(look()), refresh=True)
            time.sleep(interval)


def _table(records: list[Record]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    caption = f"{datetime.now():%H:%M:%S} · Ctrl-C leaves"
    if not records:
        return Text(f"No run is under way. {caption}")
    cells = [[str(record[name]) for name in COLUMNS] for record in records]
    natural = [max(map(cells_width, column)) for column in zip(COLUMNS, *cells, strict=True)]
    numeric = [name in ("trials", "failed", "elapsed", "left") for name in COLUMNS]
    widths = fit(natural, numeric, shutil.get_terminal_size().columns)
    table = Table(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), caption=caption
    )
    for name, width, number in zip(COLUMNS, widths, numeric, strict=False):
        table.add_column(name, width=width, no_wrap=True, justify="right" if number else "left")
    for row in cells:
        table.add_row(*(Text(cell, overflow="ellipsis") for cell in row[: len(widths)]))
    return table
