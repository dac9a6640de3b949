"""`mlux demo`."""

import shlex
import sys
from typing import TYPE_CHECKING

import click

from mlux.cli.comparison import MEANS, for_eyes
from mlux.cli.groups import examples
from mlux.cli.output import note, show_frame, show_table
from mlux.cli.run import echo_run
from mlux.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from mlux.tour import Finding

NEXT = """
Type next:
  # what is in the notebook now
  mlux runs list
  mlux sql "SELECT * FROM results LIMIT 5"
  # what else can be run, and on a model of yours
  mlux experiments
  mlux run logit_lens --model PATH_OR_ID
"""


@click.command(epilog=examples("mlux demo", "mlux --db try.db demo"))
@pass_settings
def command(settings: Settings) -> None:
    """Run the main job on the built-in model: a first look.

    Several experiments run on the small model that ships with mlux, without any
    download; what they found is stored, compared and printed, with the next
    commands to type.
    """
    from mlux import tour

    runs = []
    for run in tour.run_jobs(settings.location, progress=sys.stderr.isatty()):
        echo_run(run)
        runs.append(run)
    for finding in tour.findings(settings.location, runs):
        click.echo(f"\n{finding.question}")
        _show(finding)
        click.echo(f"$ {_typed(finding.command, settings)}")
    click.echo(_typed(NEXT, settings), nl=False)
    note(f"Every number is in {settings.location}.")


def _show(finding: "Finding") -> None:
    """The answer as the command below it prints it."""
    if "low" not in finding.columns:
        show_table(list(finding.columns), finding.rows, "table")
        return
    import pandas as pd

    frame = pd.DataFrame(finding.rows, columns=list(finding.columns)).assign(run="")
    show_frame(for_eyes(frame, ["layer"], MEANS), "table")


def _typed(commands: str, settings: Settings) -> str:
    """Commands as one has to type them to ask this database."""
    if settings.db is None:
        return commands
    return commands.replace("mlux ", f"mlux --db {shlex.quote(settings.db)} ")
