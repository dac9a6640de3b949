"""`mlux report`."""

from pathlib import Path

import click

from mlux.cli.groups import examples
from mlux.cli.settings import Settings, pass_settings


@click.command(
    epilog=examples(
        "mlux report latest -o report.html",
        'mlux report 01ja 01jb --question "Do 4 bits hurt?" -o report.html',
        "mlux report 01ja 01jb -o report.md",
    )
)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    "target",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to; .html, or .md with PNGs beside it.",
)
@click.option("--question", metavar="TEXT", help="What the runs should answer; the title.")
@click.option("--metric", metavar="NAME", help="What to draw and compare; default: what suits.")
@click.option(
    "--across-quantization", is_flag=True, help="Compare models of different precision, too."
)
@pass_settings
def command(
    settings: Settings,
    runs: tuple[str, ...],
    target: Path,
    question: str | None,
    metric: str | None,
    across_quantization: bool,
) -> None:
    """Write a report of runs: one page that opens without a network.

    Charts, statistics, texts, claims, where every number comes from, and the
    commands and SQL that repeat it.
    """
    from mlux import report

    for file in report.write(
        list(runs),
        target,
        question=question,
        metric=metric,
        across_quantization=across_quantization,
        db=settings.location,
    ):
        click.echo(file)
