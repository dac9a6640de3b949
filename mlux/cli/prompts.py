"""`mlux prompts`: the prompt sets of mlux, of the notebook and of files."""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import click

from mlux import prompts
from mlux.cli.groups import Group, examples
from mlux.cli.options import columns_of
from mlux.cli.output import format_option, note, show_records
from mlux.cli.settings import Settings, pass_settings
from mlux.errors import UnknownNameError
from mlux.prompts import Prompt, PromptSet

columns_option = click.option(
    "--columns",
    metavar="ROLE=COLUMN,…",
    callback=columns_of,
    help="Which columns of the file hold the roles, as in text=question,answer=target.",
)


@click.group(cls=Group, epilog=examples("mlux prompts list", "mlux prompts show facts"))
def command() -> None:
    """List, show, import and export prompt sets."""


@command.command("list", epilog=examples("mlux prompts list", "mlux prompts list --json"))
@format_option
@pass_settings
def list_(settings: Settings, output: str) -> None:
    """List the prompt sets that ship with mlux, and those in the database."""
    records = [
        {"name": name, "prompts": len(found), "from": "mlux", "description": text}
        | {"roles": " ".join(_roles(found))}
        for name, text in prompts.shipped().items()
        for found in [prompts.load(name).prompts]
    ]
    names = {record["name"] for record in records}
    records += [
        {"name": record["name"], "prompts": record["prompts"], "from": "database"} | record
        for record in _in_database(settings)
        if str(record["name"]).rpartition(":")[0] not in names and record["name"] not in names
    ]
    show_records(records, output, ("name", "prompts", "from", "description"))


def _in_database(settings: Settings) -> list[dict[str, Any]]:
    if settings.is_absent:
        return []
    from mlux.store import list_prompt_sets

    return list_prompt_sets(settings.read())


@command.command(epilog=examples("mlux prompts show facts", "mlux prompts show my_prompts.csv"))
@click.argument("name", metavar="FILE_OR_SET")
@columns_option
@format_option
@pass_settings
def show(settings: Settings, name: str, columns: dict[str, str] | None, output: str) -> None:
    """Show the prompts of a set or a file, with the roles that they have.

    Reads the file as `mlux run --prompts` would, so this also checks it.
    """
    found = _found(settings, name, columns).prompts
    show_records([asdict(prompt) for prompt in found], output, _roles(found))


@command.command(
    "import",
    epilog=examples(
        "mlux prompts import questions.csv --columns text=question,answer=target",
        "mlux run logit_lens --model demo --prompts questions",
    ),
)
@click.argument("file", metavar="FILE")
@click.option("--name", metavar="NAME", help="What to call it; default: the file's name.")
@click.option("--description", metavar="TEXT", default="", help="What it is.")
@columns_option
@pass_settings
def import_(
    settings: Settings,
    file: str,
    name: str | None,
    description: str,
    columns: dict[str, str] | None,
) -> None:
    """File the prompts of a file in the database, under a name for --prompts."""
    from mlux.store import Store, file_prompt_set

    found = prompts.load(file, columns)
    found = replace(found, name=name or found.name, description=description)
    with Store.open(settings.location, write=True) as store:
        file_prompt_set(store, found)
    note(f"{len(found.prompts)} prompts are filed. Use them with: --prompts {found.name}")
    click.echo(found.name)


@command.command(
    epilog=examples(
        "mlux prompts export ioi -o ioi.csv",
        "mlux prompts export --run latest -o asked.jsonl",
    )
)
@click.argument("name", metavar="[FILE_OR_SET]", required=False)
@click.option("--run", metavar="RUN", help="Those that a run took, whatever they are called.")
@click.option("-o", "--output", "path", metavar="FILE", required=True, help=".jsonl .json or .csv")
@pass_settings
def export(settings: Settings, name: str | None, run: str | None, path: str) -> None:
    """Write a prompt set to a file that --prompts can read."""
    if name is not None and run is None:
        found = _found(settings, name, None)
    elif run is not None and name is None:
        from mlux.store import load_run, resolve_run

        store = settings.read()
        found = load_run(store, resolve_run(store, run)).prompts
    else:
        raise click.UsageError("Give either a set or a file, or --run RUN.")
    prompts.save(found, Path(path))
    note(f"{len(found.prompts)} prompts are written.")
    click.echo(path)


def _found(settings: Settings, name: str, columns: dict[str, str] | None) -> PromptSet:
    try:
        return prompts.load(name, columns)
    except UnknownNameError:
        if columns or settings.is_absent:
            raise
    from mlux.store import find_prompt_set

    return find_prompt_set(name, settings.location)


def _roles(found: Sequence[Prompt]) -> list[str]:
    """The roles that at least one of these prompts has."""
    names = [field.name for field in fields(Prompt)]
    return [name for name in names if any(getattr(p, name) is not None for p in found)]
