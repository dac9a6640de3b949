"""`mlux merge`."""

import click

from mlux.cli.groups import examples
from mlux.cli.output import json_option, note, show_json
from mlux.cli.settings import Settings, pass_settings
from mlux.errors import StoreError


@click.command(
    epilog=examples(
        "mlux merge colleague.db",
        "mlux --db postgresql+psycopg://lab@server/mlux merge mlux.db",
    )
)
@click.argument("other", metavar="OTHER.db")
@json_option
@pass_settings
def command(settings: Settings, other: str, as_json: bool) -> None:
    """Bring the runs of another database here.

    Loses and doubles nothing, and done twice changes nothing: runs are the same by
    their id, models and prompts by their content. OTHER.db is a file or a URL, may
    be of an older mlux, and is not changed. Of a run that both have, the trials that
    only the other has done are taken; tags, note and bin stay as they are here, and
    tags and a note that are lacking here come from there.
    """
    from dataclasses import asdict

    from mlux.store import Store
    from mlux.store.merge import merge
    from mlux.store.merge_source import older_file

    older_file(other)  # fails before a database is made for what cannot be read
    with Store.open(settings.location, write=True) as store:
        done = merge(store, other)
    if as_json:
        show_json(asdict(done))
    else:
        trials = sum(done.completed.values())
        parts = [f"{len(done.new)} new", f"{len(done.same)} here already"]
        if done.completed:
            parts.insert(1, f"{len(done.completed)} completed by {trials} trials")
        click.echo(f"Runs: {', '.join(parts)}.")
    for uid, reason in done.refused.items():
        note(f"Not taken: {uid}: {reason}")
    if done.refused:
        raise StoreError(
            f"{len(done.refused)} of {other} could not be taken; all else was. "
            "Mend them and merge again."
        )
