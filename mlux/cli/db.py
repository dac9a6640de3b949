"""`mlux db`: the database itself."""

from datetime import timedelta
from pathlib import Path

import click

from mlux.cli.groups import Group, examples
from mlux.cli.options import make_sure, yes_option
from mlux.cli.output import json_option, note, show_json, show_part
from mlux.cli.settings import Settings, pass_settings


@click.group(cls=Group, epilog=examples("mlux db info", "mlux db check", "mlux db gc --dry-run"))
def command() -> None:
    """Look after the database."""


@command.command(epilog=examples("mlux db info", "mlux --db mlux.db.example db info --json"))
@json_option
@pass_settings
def info(settings: Settings, as_json: bool) -> None:
    """Show where it is, its schema revision, its size and what it holds."""
    from mlux import store

    found = store.info(settings.read())
    show_json(found) if as_json else show_part("database", found)


@command.command(epilog=examples("mlux db check", "mlux --db old.db db check"))
@json_option
@pass_settings
def check(settings: Settings, as_json: bool) -> None:
    """Look whether everything is there and as it should be.

    The file, the schema, every reference between tables, what is known by a hash,
    numbers, places, times and every artifact's file are checked; exit code 1 and a
    line for each thing that is wrong.
    """
    from mlux.store import soundness

    store = settings.read()
    wrong = soundness.check(store)
    if as_json:
        show_json(wrong)
    for line in [] if as_json else wrong or [f"{store.location} is sound."]:
        click.echo(line)
    if wrong:
        raise click.exceptions.Exit(1)


@command.command(epilog=examples("mlux db backup", "mlux db backup before-the-move.db"))
@click.argument("target", required=False, metavar="[FILE]", type=click.Path(dir_okay=False))
@pass_settings
def backup(settings: Settings, target: str | None) -> None:
    """Copy it as it is now, with its artifacts; others may go on writing.

    Without FILE the copy is put beside it and named by the time.
    """
    from mlux.store.backup import back_up

    click.echo(back_up(settings.read(), Path(target) if target else None))


@command.command(epilog=examples("mlux db gc --dry-run", "mlux db gc --older-than 7"))
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option(
    "--older-than",
    metavar="DAYS",
    type=click.FloatRange(min=0, max=100_000),
    default=30,
    show_default=True,
    help="How long a run must have been deleted.",
)
@pass_settings
def gc(settings: Settings, dry_run: bool, older_than: float) -> None:
    """Remove runs deleted long ago, and files that no run needs."""
    from mlux.store.garbage import collect_garbage

    store = settings.read() if dry_run else settings.write()
    found = collect_garbage(store, older_than=timedelta(days=older_than), dry_run=dry_run)
    for uid in found.runs:
        click.echo(f"run {uid}")
    for path in found.files:
        click.echo(f"file {path}")
    would = "Would remove" if dry_run else "Removed"
    note(
        f"{would} {len(found.runs)} runs and {len(found.files)} files of "
        f"{found.bytes / 1e6:.1f} MB."
    )


@command.command(epilog=examples("mlux db downgrade r0001"))
@click.argument("revision")
@yes_option
@pass_settings
def downgrade(settings: Settings, revision: str, yes: bool) -> None:
    """Go back to an earlier schema, for an earlier mlux.

    A copy of the file is kept beside it first. What the earlier schema cannot hold
    is lost; docs/schema.md says what each revision added.
    """
    from mlux.store.schema import downgrade as go_back

    store = settings.write()
    make_sure(f"Take {store.location} back to {revision}?", yes)
    kept = go_back(store, revision)
    click.echo(f"{store.location} is at revision {revision}.")
    if kept is not None:
        note(f"As it was before: {kept}")


@command.command(epilog=examples("mlux db upgrade", "mlux --db old.db db upgrade"))
@pass_settings
def upgrade(settings: Settings) -> None:
    """Bring the database to the schema of this mlux.

    A copy of the file is kept beside it first. Commands that write do this by
    themselves; this one is for a database that is only read.
    """
    from mlux.store import Store, info

    with Store.open(settings.location, write=True) as store:
        click.echo(f"{store.location} is at the newest revision, {info(store)['revision']}.")
