"""`mlux runs`: what was run."""

import sys
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from mlux.cli.bin import delete, restore
from mlux.cli.cells import cell
from mlux.cli.groups import Group, examples
from mlux.cli.options import Limited, pairs
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
from mlux.cli.watch import watch
from mlux.errors import RunError

if TYPE_CHECKING:
    from mlux.store import StoredRun

STATUSES = ("queued", "running", "done", "failed", "crashed")
COLUMNS = ("run", "experiment", "model", "prompts", "status", "trials", "created")


@click.group(cls=Group, epilog=examples("mlux runs list", "mlux runs show latest"))
def command() -> None:
    """List, show, tag and resume runs.

    A run is named by its id, by the beginning of its id if that is the only such
    run, by `latest`, or by `latest:EXPERIMENT`; `latest~1` is the one before.
    """


command.add_command(watch)
command.add_command(delete)
command.add_command(restore)


@command.command(
    "list",
    epilog=examples(
        "mlux runs list",
        "mlux runs list --experiment logit_lens --status done",
        "mlux runs list --where \"params.top_k > 3 and tags.paper = 'fv'\"",
    ),
)
@click.option("--experiment", metavar="NAME", help="Only runs of this experiment.")
@click.option("--model", metavar="NAME", help="Only runs on this model.")
@click.option("--status", type=click.Choice(STATUSES), help="Only runs with this status.")
@click.option(
    "--tag", metavar="KEY=VALUE", multiple=True, callback=pairs, help="Only runs with it."
)
@click.option(
    "--where",
    metavar="CONDITION",
    help="Only runs that fulfil it: \"model ~ 'gemma' and params.top_k > 3\".",
)
@click.option("-n", "--limit", metavar="N", type=Limited("limit"), help="Only so many, the newest.")
@click.option("--before", metavar="RUN", help="Only runs older than this one: the next page.")
@click.option("--deleted", is_flag=True, help="What is in the bin instead.")
@format_option
@pass_settings
def list_(settings: Settings, /, output: str, before: str | None, **filters: Any) -> None:
    """List runs, newest first.

    A condition of --where compares the columns of run_overview, params.NAME and
    tags.NAME by = != < <= > >= ~ (contains), in (…), is null; joined by and, or,
    not and parentheses. Text stands in quotes.
    """
    from mlux import store

    database = settings.read()
    before = before and store.resolve_run(database, before)
    records = store.list_runs(database, before=before, **filters)
    if output in FOR_EYES:
        records = [run | _short(run) for run in records]
    show_records(records, output, COLUMNS)
    if records and len(records) == filters["limit"]:
        note(f"Older ones: --before {records[-1]['run']}")
    if not records:
        note("No such runs." if any([before, *filters.values()]) else "No runs yet. Try: mlux demo")


def _short(run: dict[str, Any]) -> dict[str, str]:
    """What a listing says shorter than the record: how much is done, and when, in local time."""
    return {"trials": f"{run['done']}/{run['trials']}", "created": _short_time(run["created"])}


def _short_time(stored: str) -> str:
    try:
        time = datetime.fromisoformat(stored).astimezone()
    except (ValueError, OverflowError):
        return stored  # not a time that we wrote; the rest of the listing is still good
    this_year = time.year == datetime.now().astimezone().year
    return f"{time:%m-%d %H:%M}" if this_year else f"{time:%Y-%m-%d %H:%M}"


@command.command(
    epilog=examples(
        "mlux runs show latest",
        "mlux runs show latest:logit_lens --json",
        "mlux runs show --diff latest~1 latest",
    )
)
@click.argument("runs", metavar="RUN", nargs=-1, required=True)
@click.option("--diff", is_flag=True, help="Show what differs between two runs.")
@json_option
@pass_settings
def show(settings: Settings, runs: tuple[str, ...], diff: bool, as_json: bool) -> None:
    """Show all that is known of one run, or with --diff what two do not share.

    The difference is in options, prompts, model, tokenizer, code and environment.
    """
    from mlux import store
    from mlux.store.differences import differences

    if len(runs) != (2 if diff else 1):
        raise click.UsageError("Give two runs with --diff." if diff else "Give one run.")
    database = settings.read()
    loaded = [store.load_run(database, store.resolve_run(database, run)) for run in runs]
    if diff:
        found = [asdict(difference) for difference in differences(*loaded)]
        show_records(found, "json" if as_json else "table", ("part", "name", "a", "b"))
        if not found:
            note("They do not differ in anything that a number may depend on.")
        return
    artifacts = store.artifact_summary(database, loaded[0].uid)
    parts = _parts(loaded[0]) | {"artifacts": artifacts}
    if as_json:
        show_json(parts)
        return
    for title, part in parts.items():
        show_part(title, part)


def _parts(run: "StoredRun") -> dict[str, Any]:
    """A run as a person reads it: title → its fields, or its list of records."""
    known = asdict(run)
    facts = ("status", "error", "note", "seed", "batch_size", "created_at", "started_at")
    ends = ("finished_at", "seconds", "peak_memory_bytes", "hook_fires")
    return {
        "run": {"run": run.uid} | {name: known[name] for name in facts + ends},
        "trials": dict(run.counts),
        "baseline": _baseline(run),
        "experiment": {
            name: known[name] for name in ("experiment", "description", "paper", "code_hash")
        },
        "params": dict(run.params),
        "tags": dict(run.tags),
        "model": {"label": run.model_label} | known["model"],
        "prompts": {
            "name": run.prompts.name,
            "prompts": len(run.prompts.prompts),
            "content_hash": run.prompts.content_hash,
        },
        "metrics": list(known["metrics"]),
        "environment": known["environment"],
        "learned": [
            {"at": event["at"], "learned": event["message"]}
            for event in known["events"]
            if event["kind"] == "learned"
        ],
        "events": [event for event in known["events"] if event["kind"] != "learned"],
        "failures": [{"trial": trial, "error": error} for trial, error in run.failures.items()],
    }


def _baseline(run: "StoredRun") -> dict[str, Any]:
    """How many prompts passed the gate, and why each other one did not."""
    from mlux.gate import SOLVED

    if SOLVED.name not in [metric.name for metric in run.metrics]:
        return {}
    total = len(run.prompts.prompts)
    reasons = {run.trials[trial].prompt: reason for trial, reason in run.unsolved.items()}
    texts = [prompt.text for prompt in run.prompts.prompts]
    return {
        "solved": f"{total - run.n_unsolved} of {total} prompts",
        "note": run.gate_sentence,
        "unsolved": [
            {"prompt": texts[number], "reason": reason}
            for number, reason in sorted(reasons.items())
        ],
    }


_max_failures = click.option(
    "--max-failures", metavar="N", type=Limited("max_failures"), help="Stop when more trials fail."
)


@command.command(epilog=examples("mlux runs resume latest"))
@click.argument("run")
@_max_failures
@pass_settings
def resume(settings: Settings, run: str, max_failures: int | None) -> None:
    """Run the trials that a run still lacks.

    What is there stays. If a process is at work on the run, this one joins it and
    takes trials of its own; start it as often as the machine bears.
    """
    from mlux import runner
    from mlux.cli.run import echo_run, fail_unless_done, note_gate

    finished = runner.resume(
        run, db=settings.location, max_failures=max_failures, progress=sys.stderr.isatty()
    )
    note_gate(finished.experiment, finished.model, finished.gate_sentence)
    echo_run(finished)
    fail_unless_done([finished])


@command.command(epilog=examples("mlux runs rerun latest"))
@click.argument("run")
@_max_failures
@pass_settings
def rerun(settings: Settings, run: str, max_failures: int | None) -> None:
    """Run a stored run again, as a new run.

    Prompts, options and seed are those of the stored run; code and model are those
    of today. See what changed with: mlux runs show --diff
    """
    from mlux import runner
    from mlux.cli.run import echo_run, fail_unless_done, note_gate

    finished = runner.rerun(
        run, db=settings.location, max_failures=max_failures, progress=sys.stderr.isatty()
    )
    note_gate(finished.experiment, finished.model, finished.gate_sentence)
    echo_run(finished)
    fail_unless_done([finished])


@command.command(epilog=examples("mlux runs verify latest", "mlux runs verify latest --json"))
@click.argument("run")
@click.option(
    "--numbers-only", is_flag=True, help="Pass if the numbers agree, whatever else has changed."
)
@json_option
@pass_settings
def verify(settings: Settings, run: str, numbers_only: bool, as_json: bool) -> None:
    """Compute a run again and compare every value; nothing is stored.

    Fails if a value differs by more than the dtype, the device and the
    quantisation explain, or if anything has changed that a number may depend on:
    code, weights, tokenizer, chat template, prompts, versions.
    """
    from mlux.verify import verify as verify_run

    found = verify_run(run, db=settings.location, progress=sys.stderr.isatty())
    if as_json:
        show_json(asdict(found))
    else:
        for difference in found.changed:
            click.echo(f"changed: {difference}")
        click.echo(
            f"{found.n_values - found.n_different:,} of {found.n_values:,} values of "
            f"{found.n_trials} trials agree within {found.tolerance:g} "
            f"(largest difference {found.largest:.2g})"
        )
    if found.first is not None:
        raise RunError(f"Run {found.uid} is not reproduced; first {found.first}.")
    if found.changed and not numbers_only:
        raise RunError(
            f"Run {found.uid} has the same numbers, but not the same {found.changed[0].part} "
            f"({found.changed[0].name}). --numbers-only passes that."
        )


@command.command(
    epilog=examples("mlux runs tag latest paper=fv", "mlux runs tag latest --remove paper")
)
@click.argument("run")
@click.argument("tags", metavar="[KEY=VALUE]…", nargs=-1, callback=pairs)
@click.option("--remove", metavar="KEY", multiple=True, help="Remove this tag.")
@pass_settings
def tag(settings: Settings, run: str, tags: dict[str, str], remove: tuple[str, ...]) -> None:
    """Set or remove tags of a run.

    A tag that is there already gets the new value.
    """
    from mlux import store

    if not (tags or remove):
        raise click.UsageError("Give KEY=VALUE, or --remove KEY.")
    database = settings.write()
    uid = store.resolve_run(database, run)
    now = store.tag_run(database, uid, tags, remove=remove)
    shown = ", ".join(f"{cell(key)}={cell(value)}" for key, value in now.items())
    click.echo(f"{uid}: {shown or 'no tags'}")


@command.command(
    "note",
    epilog=examples('mlux runs note latest "the seed of figure 3"', 'mlux runs note latest ""'),
)
@click.argument("run")
@click.argument("text")
@pass_settings
def note_(settings: Settings, run: str, text: str) -> None:
    """Replace a run's note; an empty text removes it."""
    from mlux import store

    database = settings.write()
    uid = store.resolve_run(database, run)
    store.note_run(database, uid, text)
    click.echo(f"{uid}: {cell(text) or 'no note'}")
