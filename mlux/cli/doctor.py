"""`mlux doctor`."""

import click

from mlux import doctor
from mlux.cli.groups import examples
from mlux.cli.output import json_option, show_json
from mlux.cli.settings import Settings, pass_settings

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(epilog=examples("mlux doctor", "mlux doctor --json > doctor.json"))
@json_option
@click.pass_context
@pass_settings
def command(settings: Settings, context: click.Context, as_json: bool) -> None:
    """Check this installation and say how to mend it.

    Versions, device, BLAS and its measured speed, database, free disk. Exits with
    1 if something stops mlux from working; being slow does not.
    """
    found = []
    for check in doctor.checks(settings.location):
        found.append(check)
        if not as_json:
            status = click.style(f"{check.status:4}", fg=COLOURS[check.status])
            click.echo(f"{status}  {check.name:<10}  {check.detail}")
            if check.fix:
                click.echo(f"{'':18}→ {check.fix}")
    if as_json:
        show_json([vars(check) for check in found])
    context.exit(any(check.status == "fail" for check in found))
