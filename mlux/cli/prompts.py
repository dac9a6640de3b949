"""`mlux prompts`: the prompt sets that ship with mlux, and what a file holds."""

from collections.abc import Sequence
from dataclasses import asdict, fields

import click

from mlux import prompts
from mlux.cli.groups import Group, examples
from mlux.cli.output import format_option, show_records
from mlux.prompts import Prompt


@click.group(cls=Group, epilog=examples("mlux prompts list", "mlux prompts show facts"))
def command() -> None:
    """List and show prompt sets."""


@command.command("list", epilog=examples("mlux prompts list", "mlux prompts list --json"))
@format_option
def list_(output: str) -> None:
    """List the prompt sets that ship with mlux."""
    records = [
        {"name": name, "prompts": len(found), "description": text, "roles": " ".join(_roles(found))}
        for name, text in prompts.shipped().items()
        for found in [prompts.load(name).prompts]
    ]
    show_records(records, output, ("name", "prompts", "description"))


@command.command(epilog=examples("mlux prompts show facts", "mlux prompts show my_prompts.csv"))
@click.argument("name", metavar="FILE_OR_SET")
@format_option
def show(name: str, output: str) -> None:
    """Show the prompts of a set or a file, with the roles that they have.

    Reads the file as `mlux run --prompts` would, so this also checks it.
    """
    found = prompts.load(name).prompts
    show_records([asdict(prompt) for prompt in found], output, _roles(found))


def _roles(found: Sequence[Prompt]) -> list[str]:
    """The roles that at least one of these prompts has."""
    names = [field.name for field in fields(Prompt)]
    return [name for name in names if any(getattr(p, name) is not None for p in found)]
