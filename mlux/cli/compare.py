"""`mlux compare`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mlux.cli.comparison import MEANS, TESTS, best_places, for_eyes, ordered
from mlux.cli.groups import examples
from mlux.cli.options import Limited
from mlux.cli.output import FOR_EYES, format_option, note, sentence, show_frame
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
        "mlux compare 01ja 01jb --stats --by layer,head --correction max-t --top 10",
        "mlux compare 01ja 01jb --across-quantization --sort=-estimate",
        "mlux compare 01ja,01jb,01jc 01jd,01je,01jf",
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
@click.option("--stats", is_flag=True, help="Differences with interval, effect size, p and q.")
@click.option("--side-by-side", is_flag=True, help="A column for each, also of two runs.")
@click.option("--unpaired", is_flag=True, help="For runs on different prompts.")
@click.option(
    "--across-quantization", is_flag=True, help="Compare models of different precision, too."
)
@click.option(
    "--correction",
    type=click.Choice(["bh", "max-t"]),
    default="bh",
    show_default=True,
    help="How p becomes q.",
)
@click.option(
    "--margin",
    metavar="NUMBER",
    type=Limited("margin"),
    help="Also test that they differ by less than this.",
)
@click.option(
    "--seed",
    type=Limited("seed"),
    metavar="N",
    default=0,
    show_default=True,
    help="Of the resampling.",
)
@click.option("--sort", metavar="COLUMN", help="Order the rows; -COLUMN puts the largest first.")
@click.option(
    "--top",
    metavar="N",
    type=Limited("top"),
    help="Only so many rows; unsorted: those that differ most.",
)
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
    unpaired: bool,
    across_quantization: bool,
    correction: str,
    margin: float | None,
    seed: int,
    sort: str | None,
    top: int | None,
    output: str,
) -> None:
    """Compare runs side by side, with intervals and tests.

    Two runs, --stats and --baseline give differences, paired by prompt: estimate,
    interval, p, and q corrected over the rows. More runs give a column for each.
    Runs joined by commas are replicates that differ in their seed alone.
    The best value is marked with *.
    """
    runs = runs if baseline is None else (baseline, *(run for run in runs if run != baseline))
    if any("," in run for run in runs):
        stats = True
    if len(runs) < 2:
        raise click.UsageError("Give at least two runs to compare.")
    if side_by_side and (stats or baseline):
        raise click.UsageError("--side-by-side shows no differences: leave --stats, --baseline.")
    metric = _first_shared(settings, runs) if metric is None else metric
    if stats or baseline or (len(runs) == 2 and not side_by_side):
        frame = _differences(
            *(settings, runs, metric, by),
            paired=not unpaired,
            across_quantization=across_quantization,
            correction=correction,
            margin=margin,
            seed=seed,
        )
        shown, marked = ordered(frame, sort, top, by="p"), ["estimate"]
    else:
        frame = _side_by_side(settings, runs, metric, by)
        marked = [name for name in frame.columns if name not in by]
        shown = ordered(frame, sort, top, by=marked)
    if output not in FOR_EYES:
        return show_frame(shown, output)
    best = best_places(shown[marked], _better(settings, runs[0], metric))
    if "estimate" in shown:
        shown = for_eyes(shown, by, TESTS if stats else MEANS)
    return show_frame(shown, output, marks=best)


def _side_by_side(
    settings: Settings, runs: Sequence[str], metric: str, by: list[str]
) -> "DataFrame":
    """The mean of each run in a column of its own."""
    from mlux import compare
    from mlux.store import load_run, resolve_run

    store = settings.read()
    for run in runs:
        stored = load_run(store, resolve_run(store, run))
        if stored.gate_sentence:
            sentence(f"Note: Run {stored.uid}: {stored.gate_sentence}")
    table = compare.pivot(runs, metric=metric, by=by, db=settings.location)
    for warning in table.attrs["notes"]:
        sentence(f"Note: {warning}")
    return table.reset_index()


def _differences(
    settings: Settings, runs: Sequence[str], metric: str, by: list[str], **options: Any
) -> "DataFrame":
    """How each run differs from the first, one below the other; q is corrected over all rows."""
    import pandas as pd

    from mlux import compare, stats

    options |= {"metric": metric, "by": by, "db": settings.location}
    found = [compare.diff(_side(runs[0]), _side(run), **options) for run in runs[1:]]
    for frame in found:
        sentence(f"{metric}: {frame.attrs['b']} minus {frame.attrs['a']}, {frame.attrs['method']}.")
    attrs = found[0].attrs
    across = f"{len(found)} runs of " if len(found) > 1 else ""
    sentence(
        f"{100 * attrs['level']:.0f} % intervals, {attrs['n_resamples']:,} resamples, seed "
        f"{attrs['seed']}; q: {across}{attrs['correction']}. Differences below "
        f"{attrs['smallest']:.2g} do not count, however small their q."
    )
    for warning in dict.fromkeys(text for frame in found for text in frame.attrs["notes"]):
        sentence(f"Note: {warning}")
    named = [frame.assign(run=frame.attrs["b"], baseline=frame.attrs["a"]) for frame in found]
    for frame in named:
        frame.attrs = {}
    table: DataFrame = pd.concat(
        [frame[["run", "baseline", *found[0].columns]] for frame in named], ignore_index=True
    )
    if len(found) > 1 and options["correction"] == "bh":
        table["q"] = stats.benjamini_hochberg(table["p"].to_numpy())
    return table


def _side(run: str) -> list[str]:
    """A run, or several that differ in their seed alone, joined by commas."""
    return run.split(",")


def _first_shared(settings: Settings, runs: Sequence[str]) -> str:
    """The first metric that all of these runs have; says which others there are."""
    from mlux.store import load_run, resolve_run

    store = settings.read()
    names = [
        [metric.name for metric in load_run(store, resolve_run(store, _side(run)[0])).metrics]
        for run in runs
    ]
    shared = [name for name in names[0] if all(name in others for others in names)]
    if not shared:
        found = "; ".join(f"{run}: {', '.join(own)}" for run, own in zip(runs, names, strict=True))
        raise RunError(f"These runs share no metric. They have {found}.")
    if others := shared[1:]:
        sentence(f"Metric {shared[0]}; with --metric also: {', '.join(others)}.")
    return shared[0]


def _better(settings: Settings, run: str, metric: str) -> str:
    """Which way a metric is better in a run; says so."""
    from mlux.store import load_run, resolve_run

    store = settings.read()
    known = {
        known.name: known for known in load_run(store, resolve_run(store, _side(run)[0])).metrics
    }
    better = known[metric].better if metric in known else "neither"
    if better != "neither":
        note(f"* is best: {metric} is better {better}.")
    return better
