"""`mlux experiments`: the registry, listed and described."""

from collections.abc import Iterator
from dataclasses import MISSING, Field, asdict, fields
from typing import Any, get_type_hints

import click

from mlux import registry
from mlux.cli.groups import examples
from mlux.cli.output import format_option, note, show_json, show_records
from mlux.errors import MluxError
from mlux.params import describe as describe_type
from mlux.registry import Experiment


@click.command(epilog=examples("mlux experiments", "mlux experiments logit_lens"))
@click.argument("name", required=False)
@format_option
def command(name: str | None, output: str) -> None:
    """List the experiments, or describe one.

    The description of one has its options (set them with -p when you run it),
    what its numbers mean, the prompts it needs and the paper it follows.
    """
    if name is None:
        show_records(
            [{"experiment": e.name, "description": e.description} for e in _loadable()],
            output,
            columns=("experiment", "description"),
        )
    elif output == "json":
        show_json(describe(registry.get(name)))
    else:
        _print(describe(registry.get(name)))


def _loadable() -> Iterator[Experiment]:
    """Every experiment whose file is in order; the others are noted, and hide none of these."""
    for name in registry.names():
        try:
            yield registry.get(name)
        except MluxError as error:
            note(f"Left out: {error}")


def describe(experiment: Experiment) -> dict[str, Any]:
    """What a user wants to know of an experiment, as plain values."""
    types = get_type_hints(experiment.config)
    return {
        "experiment": experiment.name,
        "documentation": experiment.documentation,
        "paper": experiment.paper,
        "prompts": experiment.prompts
        if isinstance(experiment.prompts, str)
        else "made for the model",
        "roles": list(experiment.roles),
        "options": [
            {
                "option": option.name,
                "type": describe_type(types[option.name]),
                "default": _default(option),
                "help": option.metadata.get("help", ""),
            }
            for option in fields(experiment.config)
        ],
        "metrics": [asdict(metric) for metric in experiment.metrics],
    }


def _print(about: dict[str, Any]) -> None:
    """The description as a page that wraps, like a help page: no word of it may be cut."""
    page = click.HelpFormatter(max_width=80)
    page.write_heading(about["experiment"])
    with page.indentation():
        page.write_text(about["documentation"])
    needs = f"; needs {', '.join(about['roles'])}" if about["roles"] else ""
    origin = [("paper", about["paper"]), ("prompts", f"{about['prompts']}{needs}")]
    sections = {
        "From": [(name, text) for name, text in origin if text],
        "Options, with their defaults": [
            (f"-p {option['option']}={_typed(option['default'])}", _help(option))
            for option in about["options"]
        ],
        "Numbers": [(metric["name"], _meaning(metric)) for metric in about["metrics"]],
    }
    for title, lines in sections.items():
        if lines:  # click takes no empty list
            with page.section(title):
                page.write_dl(lines)
    click.echo(page.getvalue(), nl=False)


def _typed(default: Any) -> str:
    """A default as one would type it."""
    return ",".join(map(str, default)) if isinstance(default, list | tuple) else str(default)


def _help(option: dict[str, str]) -> str:
    return f"{option['help']} ({option['type']})"


def _meaning(metric: dict[str, str]) -> str:
    better = "" if metric["better"] == "neither" else f"; {metric['better']} is better"
    return f"{metric['description'].rstrip('.')} ({metric['unit'] or 'no unit'}{better})"


def _default(option: "Field[Any]") -> Any:
    if option.default is not MISSING:
        return option.default
    return option.default_factory() if option.default_factory is not MISSING else "required"
