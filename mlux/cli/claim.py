"""`mlux claim`: what the runs show, in words, with the runs that say so."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mlux.cli.groups import Group, examples
from mlux.cli.output import (
    FOR_EYES,
    format_option,
    json_option,
    note,
    show_json,
    show_part,
    show_records,
)
from mlux.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from mlux.store.claims import Claim

# The same as `claims.STATUSES`, which would import SQLAlchemy for a help page.
STATUSES = ("supported", "refuted", "open")
COLUMNS = ("claim", "status", "text", "runs")


@click.group(
    cls=Group,
    epilog=examples(
        'mlux claim add "Layer 2 has induction heads" --runs latest',
        "mlux claim list",
    ),
)
def command() -> None:
    """Keep claims and the runs they rest on.

    A claim is named by its id, or by the beginning of it. Reports show the claims
    that rest on their runs.
    """


@command.command(
    epilog=examples(
        'mlux claim add "Layer 2 has induction heads" --runs 01ja',
    )
)
@click.argument("text")
@click.option("--runs", metavar="RUN", multiple=True, help="A run it rests on; may be repeated.")
@click.option(
    "--status", type=click.Choice(STATUSES), default="open", show_default=True, help="The verdict."
)
@click.option("--note", "remark", metavar="TEXT", help="What else there is to say.")
@pass_settings
def add(
    settings: Settings, text: str, runs: tuple[str, ...], status: str, remark: str | None
) -> None:
    """File a claim; prints its id."""
    from mlux.store import Store, claims

    with Store.open(settings.location, write=True) as store:
        made = claims.add_claim(store, text, runs=_split(runs), status=status, note=remark)
    click.echo(made.uid)


@command.command("list", epilog=examples("mlux claim list", "mlux claim list --status open"))
@click.option("--status", type=click.Choice(STATUSES), help="Only with this verdict.")
@click.option("--runs", metavar="RUN", multiple=True, help="Only those that rest on this run.")
@format_option
@pass_settings
def list_(settings: Settings, status: str | None, runs: tuple[str, ...], output: str) -> None:
    """List the claims, oldest first."""
    from mlux.store import claims, resolve_run

    store = settings.read()
    wanted = [resolve_run(store, run) for run in _split(runs)] if runs else None
    found = claims.list_claims(store, runs=wanted, status=status)
    records = [_record(claim) for claim in found]
    if output in FOR_EYES:
        records = [record | {"runs": len(record["runs"])} for record in records]
    show_records(records, output, COLUMNS)
    if not found:
        note('No such claims. File one: mlux claim add "…" --runs latest')


@command.command(epilog=examples("mlux claim show 5d", "mlux claim show 5d --json"))
@click.argument("claim")
@json_option
@pass_settings
def show(settings: Settings, claim: str, as_json: bool) -> None:
    """Show a claim with its evidence."""
    from mlux.store import claims

    found = claims.load_claim(settings.read(), claim)
    if as_json:
        show_json(_record(found))
        return
    facts = _record(found)
    evidence = [asdict(item) for item in found.evidence]
    show_part("claim", {name: facts[name] for name in facts if name != "runs"})
    show_part("evidence", evidence)


@command.command(epilog=examples("mlux claim edit 5d --status refuted --add-run latest"))
@click.argument("claim")
@click.option("--text", metavar="TEXT", help="The new wording.")
@click.option("--status", type=click.Choice(STATUSES), help="The new verdict.")
@click.option("--note", "remark", metavar="TEXT", help="The new note; an empty one removes it.")
@click.option("--add-run", metavar="RUN", multiple=True, help="More evidence; may be repeated.")
@click.option("--remove-run", metavar="RUN", multiple=True, help="Evidence to take away.")
@pass_settings
def edit(
    settings: Settings,
    claim: str,
    text: str | None,
    status: str | None,
    remark: str | None,
    add_run: tuple[str, ...],
    remove_run: tuple[str, ...],
) -> None:
    """Change a claim's wording, verdict, note or evidence."""
    from mlux.store import Store, claims

    with Store.open(settings.location, write=True) as store:
        changed = claims.edit_claim(
            store,
            claim,
            text=text,
            status=status,
            note=remark,
            add_runs=_split(add_run),
            remove_runs=_split(remove_run),
        )
    click.echo(changed.uid)


@command.command(epilog=examples("mlux claim delete 5d"))
@click.argument("claim")
@pass_settings
def delete(settings: Settings, claim: str) -> None:
    """Delete a claim for good; its runs stay."""
    from mlux.store import Store, claims

    with Store.open(settings.location, write=True) as store:
        gone = claims.delete_claim(store, claim)
    note(f"Deleted claim {gone.uid}: {gone.text}")


def _split(runs: tuple[str, ...]) -> list[str]:
    """`--runs a,b --runs c` are three runs."""
    return [name for part in runs for name in part.split(",") if name]


def _record(claim: "Claim") -> dict[str, Any]:
    return {
        "claim": claim.uid,
        "status": claim.status,
        "text": claim.text,
        "note": claim.note,
        "runs": [item.run for item in claim.evidence],
        "created": claim.created,
        "updated": claim.updated,
    }
