"""`mlux models`: the models in the database."""

from dataclasses import asdict

import click

from mlux.cli.groups import Group, examples
from mlux.cli.output import format_option, json_option, note, show_json, show_part, show_records
from mlux.cli.settings import Settings, pass_settings
from mlux.errors import ModelError

CHECK_COLUMNS = ("site", "verdict", "error", "reason")
COLUMNS = ("model", "n_layers", "n_parameters", "dtype", "quant_bits", "runs")


@click.group(cls=Group, epilog=examples("mlux models list", "mlux models show demo"))
def command() -> None:
    """Check models; list and show those that were run."""


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
    if as_json:
        show_json(found)
        return
    checks = found.pop("checks")
    show_part(model, found)
    show_part("Self-test", checks)


@command.command(epilog=examples("mlux models check demo", "mlux models check ./model --json"))
@click.argument("model")
@click.option(
    "--adapter", metavar="PATH", help="LoRA weights, of mlx-lm or PEFT: a folder or hub id."
)
@format_option
@pass_settings
def check(settings: Settings, model: str, adapter: str | None, output: str) -> None:
    """Prove on a model what can be read and edited in it.

    Each line is a site or a property: exact, approximate with the measured error,
    absent with the reason, or failed. The result is stored with the model, and a
    run that needs what failed does not start. MODEL is `demo`, a folder, or a hub
    id.
    """
    from mlux import plan, store
    from mlux.engine.certificate import BASIS
    from mlux.provenance import environment

    loaded = plan.load_model(model, adapter)
    found = loaded.check()
    rows = [asdict(row) | {"compared": row.compared} for row in found.rows]
    with store.Store.open(settings.location, write=True) as notebook:
        versions = environment(plan.device_name()).versions
        store.store_checks(notebook, loaded.identity, rows, versions)
    show_records(rows, output, CHECK_COLUMNS)
    note(BASIS)
    if found.adapter:
        note(f"{found.adapter}.")
    if not found.ok:
        failed = ", ".join(row.site for row in found.failed(()))
        raise ModelError(f"The self-test of {model} failed: {failed}.")
