"""`mlux compare`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from mlux.cli.groups import examples
from mlux.cli.output import FOR_EYES, format_option, note, show_frame
from mlux.cli.settings import Settings, pass_settings
from mlux.errors import RunError, UnknownNameError

if TYPE_CHECKING:
    from pandas import DataFrame

# The same as `compare.GROUPS`, which would import pandas for a help page; a test compares them.
AXES = ("layer", "head", "position", "prompt", "condition", "model", "experiment")


def _axes(context: click.Context, parameter: click.Parameter, value: str) -> list[str]:
    axes = value.split(",")
    for axis in axes:
        if axis not in AXES:
            raise click.BadParameter(str(UnknownNameError("axis", axis, AXES)), context, parameter)
    return axes


@click.command(
    epilog=examples(
        "mlux compare latest:logit_lens 01jd",
        "mlux compare 01ja 01jb 01jc --metric logit_diff --by layer,position",
        "mlux compare 01ja 01jb 01jc --stats --baseline 01ja",
    )
)
@click.argument("runs", metavar="RUN RUN...", nargs=-1, required=True)
@click.option("--metric", metavar="NAME", help="Which number; default: the first they share.")
@click.option(
    "--by",
    metavar="AXES",
    default="layer",
    show_default=True,
    callback=_axes,
    help=f"One or more of {', '.join(AXES)}, joined by commas.",
)
@click.option(
    "--baseline", metavar="RUN", help="What to take differences from; default: the first."
)
@click.option("--stats", is_flag=True, help="Differences, with intervals and tests.")
@click.option("--side-by-side", is_flag=True, help="A column for each, also of two runs.")
@format_option
@pass_settings
def command(
    settings: Settings,
    /,
    runs: tuple[str, ...],
    metric: str | None,
    by: list[str],
    baseline: str | None,
    stats: bool,
    side_by_side: bool,
    output: str,
) -> None:
    """Compare runs side by side, with intervals and tests.

    Two runs, --stats and --baseline give differences, paired by prompt: estimate,
    interval, p, and q corrected over the rows. More runs give a column for each.
    """
    runs = runs if baseline is None else (baseline, *(run for run in runs if run != baseline))
    if len(runs) < 2:
        raise click.UsageError("Give at least two runs to compare.")
    if side_by_side and (stats or baseline):
        raise click.UsageError("--side-by-side shows no differences: leave --stats, --baseline.")
    from mlux import compare

    metric = metric or _first_shared(settings, runs)
    if stats or baseline or (len(runs) == 2 and not side_by_side):
        frame = _differences(settings, runs, metric, by, output)
    else:
        frame = compare.pivot(runs, metric=metric, by=by, db=settings.location).reset_index()
    show_frame(frame, output)


def _differences(
    settings: Settings, runs: Sequence[str], metric: str, by: list[str], output: str
) -> "DataFrame":
    """How each run differs from the first, one below the other."""
    import pandas as pd

    from mlux import compare

    found = [
        compare.diff(runs[0], run, metric=metric, by=by, db=settings.location) for run in runs[1:]
    ]
    for frame in found:
        note(f"{metric}: {frame.attrs['b']} minus {frame.attrs['a']}, paired by prompt.")
    for warning in dict.fromkeys(text for frame in found for text in frame.attrs["notes"]):
        note(f"Note: {warning}")
    named = [frame.assign(run=frame.attrs["b"], baseline=frame.attrs["a"]) for frame in found]
    for frame in named:
        frame.attrs = {}
    table: DataFrame = pd.concat([frame[["run", "baseline", *found[0].columns]] for frame in named])
    if output in FOR_EYES:
        # What the notes say already, or what says nothing, would cost the width of two numbers.
        idle = ["baseline", *(["run"] if len(found) == 1 else [])]
        table = table.drop(columns=idle + (["n_lost"] if not table["n_lost"].any() else []))
    return table


def _first_shared(settings: Settings, runs: Sequence[str]) -> str:
    """The first metric that all of these runs have; says which others there are."""
    from mlux.store import load_run, resolve_run

    store = settings.read()
    names = [
        [metric.name for metric in load_run(store, resolve_run(store, run)).metrics] for run in runs
    ]
    shared = [name for name in names[0] if all(name in others for others in names)]
    if not shared:
        found = "; ".join(f"{run}: {', '.join(own)}" for run, own in zip(runs, names, strict=True))
        raise RunError(f"These runs share no metric. They have {found}.")
    if others := shared[1:]:
        note(f"Metric {shared[0]}; with --metric also: {', '.join(others)}.")
    return shared[0]
