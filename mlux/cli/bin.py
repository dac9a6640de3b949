"""`mlux runs delete` and `mlux runs restore`: the bin."""

import click

from mlux.cli.groups import examples
from mlux.cli.options import make_sure, yes_option
from mlux.cli.settings import Settings, pass_settings


@click.command(
    epilog=examples(
        "mlux runs delete latest",
        "mlux runs delete 7y7prk5f 4bf4h7ta",
        "mlux runs delete --hard 7y7prk5f",
    )
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--hard", is_flag=True, help="Delete for good, also what is in the bin.")
@yes_option
@pass_settings
def delete(settings: Settings, runs: tuple[str, ...], hard: bool, yes: bool) -> None:
    """Put runs into the bin, or delete them for good.

    What is in the bin is out of sight and comes back with `mlux runs restore`.
    `mlux db gc` deletes what was there for 30 days, and files that no run needs.
    """
    from mlux.store import deletion

    store = settings.write()
    uids = [(deletion.resolve_any if hard else deletion.resolve_live)(store, run) for run in runs]
    if hard:
        make_sure(f"Delete {', '.join(uids)} for good?", yes)
    (deletion.erase_runs if hard else deletion.delete_runs)(store, uids)
    for uid in uids:
        click.echo(f"{uid} is deleted" + (" for good." if hard else "."))
    if not hard:
        click.echo(f"Bring back with: mlux runs restore {' '.join(uids)}", err=True)


@click.command(epilog=examples("mlux runs restore 7y7prk5f"))
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@pass_settings
def restore(settings: Settings, runs: tuple[str, ...]) -> None:
    """Take runs out of the bin, as they were.

    `mlux runs list --deleted` shows what is there.
    """
    from mlux.store import deletion

    store = settings.write()
    uids = [deletion.resolve_deleted(store, run) for run in runs]
    deletion.restore_runs(store, uids)
    for uid in uids:
        click.echo(f"{uid} is back.")
