"""`mlux plot`."""

from pathlib import Path

import click

from mlux.cli.groups import examples
from mlux.cli.settings import Settings, pass_settings
from mlux.errors import UnknownNameError

# The same as `charts.CHARTS`, which would import Altair for a help page; a test compares them.
CHARTS = (
    "layer_profile",
    "head_heatmap",
    "patching_heatmap",
    "condition_heatmap",
    "lens_grid",
    "dose_response",
    "attribution_waterfall",
    "conditions",
    "run_scatter",
    "parallel_coordinates",
    "generations",
)


def _chart(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and value not in CHARTS:
        raise click.BadParameter(str(UnknownNameError("chart", value, CHARTS)), context, parameter)
    return value


@click.command(
    epilog=examples(
        "mlux plot latest:induction_heads -o heads.png",
        "mlux plot 01ja 01jb --metric answer_probability -o lens.svg",
        "mlux plot latest --chart patching_heatmap --prompt store -o patching.html",
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
    help="Where to; .png, .svg, .html or .json.",
)
@click.option(
    "--chart",
    metavar="NAME",
    callback=_chart,
    help=f"One of {', '.join(CHARTS)}; default: what suits the runs.",
)
@click.option("--metric", metavar="NAME", help="Which number; of run_scatter two, as x,y.")
@click.option("--prompt", metavar="TEXT", help="Only prompts that hold this text.")
@pass_settings
def command(
    settings: Settings,
    runs: tuple[str, ...],
    target: Path,
    chart: str | None,
    metric: str | None,
    prompt: str | None,
) -> None:
    """Draw runs as PNG, SVG, HTML or JSON.

    The chart is chosen by what the runs measured: by layer, by head, by token, by
    dose. Nothing is fetched from a network; the HTML opens offline.
    """
    from mlux import charts
    from mlux.charts.saving import FORMATS, check_target

    check_target(target, FORMATS)  # before the work, not after it
    drawn = charts.chart_for(
        list(runs), chart=chart, metric=metric, prompt=prompt, db=settings.location
    )
    charts.save(drawn, target)
    click.echo(target)
