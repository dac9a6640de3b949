"""`mlux models`: the models in the database."""

import click

from mlux.cli.groups import Group, examples
from mlux.cli.output import format_option, json_option, note, show_json, show_part, show_records
from mlux.cli.settings import Settings, pass_settings

COLUMNS = ("model", "n_layers", "n_parameters", "dtype", "quant_bits", "runs")


@click.group(cls=Group, epilog=examples("mlux models list", "mlux models show demo"))
def command() -> None:
    """List and show the models that were run."""


@command.command("list", epilog=examples("mlux models list", "mlux models list --format markdown"))
@format_option
@pass_settings
def list_(settings: Settings, output: str) -> None:
    """List the models that the database has runs of."""
    from mlux import store

    records = store.list_models(settings.read())
    show_records(records, output, COLUMNS)
    if not records:
        note("No models yet. Try: mlux run logit_lens --model demo")


@command.command(epilog=examples("mlux models show demo", "mlux models show demo --json"))
@click.argument("model")
@json_option
@pass_settings
def show(settings: Settings, model: str, as_json: bool) -> None:
    """Show one model: its form, its hashes, its tokenizer."""
    from mlux import store

    found = store.show_model(settings.read(), model)
    show_json(found) if as_json else show_part(model, found)
