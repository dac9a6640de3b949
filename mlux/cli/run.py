"""`mlux run`: experiments × models."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING, Any

import click

from mlux.cli.groups import examples
from mlux.cli.options import SIZE, Limited, columns_of, pairs
from mlux.cli.output import format_option, note, show_records
from mlux.cli.settings import Settings, pass_settings
from mlux.errors import RunError

if TYPE_CHECKING:
    from mlux.plan import Plan
    from mlux.prompts import PromptSet
    from mlux.runner import Run

PLAN_COLUMNS = (
    "experiment",
    "model",
    "prompt_set",
    "n_trials",
    "forward_passes",
    "seconds",
    "bytes",
    "n_unsolved",
)


@click.command(
    epilog=examples(
        "mlux run logit_lens --model demo",
        "mlux run logit_lens -m demo -p top_k=5 --prompts facts --tag paper=draft",
        "mlux run logit_lens activation_patching -m ./model-a -m ./model-b --dry-run",
    )
)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "-m",
    "--model",
    "models",
    metavar="MODEL",
    multiple=True,
    required=True,
    help="`demo`, a folder, or a hub id; give it again for more models.",
)
@click.option("--prompts", metavar="FILE_OR_SET", help="Instead of the experiment's own prompts.")
@click.option(
    "--columns",
    metavar="ROLE=COLUMN,…",
    callback=columns_of,
    help="Which columns of the file hold the roles, as in text=question,answer=target.",
)
@click.option(
    "-p",
    "--param",
    "params",
    metavar="KEY=VALUE",
    multiple=True,
    callback=pairs,
    help="An option of the experiment; see: mlux experiments NAME.",
)
@click.option(
    "--seed",
    metavar="N",
    type=Limited("seed"),
    default=0,
    show_default=True,
    help="Of everything random.",
)
@click.option(
    "--tag",
    "tags",
    metavar="KEY=VALUE",
    multiple=True,
    callback=pairs,
    help="A label to find it by.",
)
@click.option("--note", "text", metavar="TEXT", help="A sentence to remember it by.")
@click.option(
    "--batch-size",
    metavar="N",
    type=Limited("batch_size"),
    help="Prompts at once; default: 16.",
)
@click.option(
    "--memory",
    metavar="BYTES",
    type=SIZE,
    help="What sweeps may use beside the model, as in 500MB; default: 1GiB.",
)
@click.option(
    "--adapter", metavar="PATH", help="LoRA weights, of mlx-lm or PEFT: a folder or hub id."
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="What to compute in; default: float32 on a CPU, as stored on a GPU.",
)
@click.option(
    "--bad-prompts",
    type=click.Choice(["fail", "drop", "keep"]),
    default="fail",
    show_default=True,
    help="Prompts that cannot be used, or whose answer is not one token: run nothing, leave them "
    "out, or score first tokens.",
)
@click.option(
    "--keep-unsolved",
    is_flag=True,
    help="Also compute prompts of which the model does not do what the experiment takes for "
    "granted; default: they are left out.",
)
@click.option(
    "--min-gap",
    metavar="LOGITS",
    type=float,
    help="Least difference of prompt and corrupted prompt that effects are divided by; default: 1.",
)
@click.option(
    "--max-failures",
    metavar="N",
    type=Limited("max_failures"),
    help="Stop a run when more trials have failed; default: mark them and go on.",
)
@click.option(
    "--skip-existing", is_flag=True, help="Use the identical run if it is there, and run nothing."
)
@click.option("--dry-run", is_flag=True, help="Print the plan and run nothing.")
@format_option
@pass_settings
def command(
    settings: Settings,
    /,
    names: tuple[str, ...],
    models: tuple[str, ...],
    tags: dict[str, str],
    text: str | None,
    max_failures: int | None,
    skip_existing: bool,
    dry_run: bool,
    columns: dict[str, str] | None,
    output: str,
    **options: Any,
) -> None:
    """Run experiments on models and store every number.

    Every NAME runs on every MODEL. All of them are checked before the first one
    starts. One line for each run goes to stdout: its id, experiment, model and
    status. What is done stays done: an interrupted run continues with
    `mlux runs resume`.
    """
    from mlux import registry, runner
    from mlux.store import Store
    from mlux.store.annotate import check_tags

    check_tags(tags, text)
    for name in names:
        registry.get(name)  # a typing error is told before a big model is loaded
    if columns is not None:
        options["prompts"] = _by_columns(options["prompts"], columns)
    jobs = [{"name": name, "model": model, **options} for model, name in product(models, names)]
    # The first model last, so that it is still in memory when its runs begin.
    planned: dict[int, Plan] = {
        number: runner.plan_experiment(**jobs[number], db=settings.location, timed=dry_run)
        for number in sorted(range(len(jobs)), key=lambda number: number < len(names))
    }
    plans = [planned[number] for number in range(len(jobs))]
    if dry_run:
        show_records([asdict(plan) for plan in plans], output, PLAN_COLUMNS)
        for plan in plans:
            note_gate(plan.experiment, plan.model, plan.gate_sentence)
        return
    with Store.open(settings.location, write=True):
        pass  # said now, if the database cannot be written
    for plan in plans:
        for line in _notes(plan):
            note(f"Note: {line}")
    filed: dict[str, Any] = {
        "tags": tags,
        "note": text,
        "db": settings.location,
        "max_failures": max_failures,
        "skip_existing": skip_existing,
    }
    runs: list[Run] = []
    try:
        for number, job in enumerate(jobs, start=1):
            of = f"Run {number} of {len(jobs)}: {job['name']} on {job['model']}"
            note(f"{of} in {_precision(plans[number - 1])}")
            runs.append(runner.run_experiment(**job, **filed, progress=sys.stderr.isatty()))
            note_identical(runs[-1])
            note_gate(runs[-1].experiment, runs[-1].model, runs[-1].gate_sentence)
            if output == "table":
                echo_run(runs[-1])
    finally:
        # One JSON document, and one also when the third of five runs fails.
        if output != "table":
            show_records([asdict(run) for run in runs], output)
    fail_unless_done(runs)


def _by_columns(prompts: str | None, columns: dict[str, str]) -> "PromptSet":
    from mlux.prompts import load

    if prompts is None:
        raise click.UsageError("--columns names the columns of a file: --prompts FILE")
    return load(prompts, columns)


def _notes(plan: "Plan") -> Iterator[str]:
    """What a person wants to know of the prompts before the numbers are there."""
    if plan.n_dropped:
        total = plan.n_dropped + plan.n_prompts
        yield f"{plan.n_dropped} of {total} prompts are left out of {plan.experiment}."
    if plan.adapter:
        yield f"{plan.adapter}."
    if plan.unread:
        yield f"mlx-lm does not read of config.json: {'; '.join(plan.unread)}."
    if plan.n_long_answers:
        yield (
            f"{plan.n_long_answers} of {plan.n_prompts} prompts have an answer of several tokens; "
            f"{plan.experiment} scores the first."
        )
    if plan.n_unknown:
        yield (
            f"{plan.n_unknown} of {plan.n_prompts} prompts have words that {plan.model} does not "
            "know."
        )


def _precision(plan: "Plan") -> str:
    """What it computes in, and if that is another, what the weights are stored in."""
    if plan.dtype == plan.stored_dtype:
        return plan.dtype
    return f"{plan.dtype}, stored in {plan.stored_dtype} (--dtype)"


def note_identical(run: "Run") -> None:
    """Says if the same was computed before."""
    if not run.is_new:
        note(f"Note: {run.uid} is the identical run, done before; nothing was run.")
    elif run.identical:
        note(
            f"Note: run {run.identical[0]} had computed the same already; "
            "--skip-existing would have used it."
        )


def note_gate(experiment: str, model: str, sentence: str | None) -> None:
    """Says how many prompts do not show what the experiment takes for granted."""
    if sentence is not None:
        note(f"Note: {experiment} on {model}: {sentence}")


def echo_run(run: "Run") -> None:
    """One line for programs that cut it at the tabs."""
    click.echo("\t".join((run.uid, run.experiment, run.model, run.status)))


def fail_unless_done(runs: "list[Run]") -> None:
    """Raises RunError if a run has trials that failed."""
    failed = [run.uid for run in runs if run.status != "done"]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(runs)} runs did not finish; see: mlux runs show {failed[0]}"
        )
