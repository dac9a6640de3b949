"""`mlux db`: the database itself."""

import click

from mlux.cli.groups import Group, examples
from mlux.cli.output import json_option, show_json, show_part
from mlux.cli.settings import Settings, pass_settings


@click.group(cls=Group, epilog=examples("mlux db info", "mlux --db old.db db upgrade"))
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
