"""`mlux export`."""

import click

from mlux.cli.groups import examples
from mlux.cli.settings import Settings, pass_settings


@click.command(
    epilog=examples(
        "mlux export -o paper.db latest:logit_lens",
        "mlux export -o results.parquet --where \"tags.paper = 'fv'\"",
        "mlux export -o tables --format csv",
        "mlux export --mlflow mlruns latest",
    )
)
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option("-o", "--out", metavar="FILE_OR_DIR", help="NAME.db, .parquet, .csv, or a folder.")
@click.option("--mlflow", metavar="DIR_OR_URI", help="Into an MLflow store instead.")
@click.option("--where", metavar="CONDITION", help="Runs that fulfil it, as in mlux runs list.")
@click.option(
    "--format",
    "table_format",
    type=click.Choice(["parquet", "csv"]),
    default="parquet",
    show_default=True,
    help="Of the tables in a folder.",
)
@pass_settings
def command(
    settings: Settings,
    runs: tuple[str, ...],
    out: str | None,
    mlflow: str | None,
    where: str | None,
    table_format: str,
) -> None:
    """Write runs for other programs.

    NAME.db is a database of its own with these runs and their artifacts; .parquet
    and .csv have every number in a row of its own; a folder has a file for runs,
    metrics, prompts, results, predictions and generations. Without RUN and --where
    all runs are written.
    """
    from mlux import store
    from mlux.errors import StoreError

    if (out is None) == (mlflow is None):
        raise click.UsageError("Give -o FILE_OR_DIR, or --mlflow DIR_OR_URI.")
    database = settings.read()
    uids = [store.resolve_run(database, run) for run in runs]
    if where is not None or not runs:
        uids += [run["run"] for run in store.list_runs(database, where=where)]
    uids = list(dict.fromkeys(uids))
    if not uids:
        raise StoreError(f"There are no such runs in {database.location}.")
    if mlflow is not None:
        from mlux.export.tracking import export_mlflow

        new, there = export_mlflow(database, uids, mlflow)
        click.echo(f"Runs: {len(new)} new, {len(there)} there already.")
        return
    from mlux.export import export

    assert out is not None
    for path in export(database, uids, out, table_format=table_format):
        click.echo(path)
