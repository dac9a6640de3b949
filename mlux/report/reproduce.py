"""The exact commands and SQL that give what a report shows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlux.charts.suitable import Suggestion
from mlux.report import request
from mlux.report.request import typed
from mlux.store import load_run
from mlux.store.records import StoredRun
from mlux.store.session import DEFAULT_NAME, Store

if TYPE_CHECKING:
    from mlux.report.content import Section


def plot(uids: Sequence[str], item: Suggestion, target: str) -> str:
    """The command that draws a chart."""
    metric = ["--metric", item.metric] if item.metric else []
    return typed("mlux", "plot", *uids, "--chart", item.chart, *metric, "-o", target)


ACROSS = "--across-quantization"


def comparison(a: str, b: str, metric: str, axes: Sequence[str], across: bool) -> str:
    """The command that compares two runs."""
    options = ["--metric", metric, "--by", ",".join(axes), *([ACROSS] if across else [])]
    return typed("mlux", "compare", a, b, *options)


def commands(
    runs: Sequence[StoredRun],
    sections: Sequence["Section"],
    question: str | None,
    metric: str | None,
    across: bool,
    target: str,
    store: Store,
) -> tuple[str, ...]:
    """What to type to run everything again: the runs, the comparisons, the charts, the report.

    The lines are for bash or zsh, and for an otherwise empty folder that holds the database.
    """
    asked = ["--question", question] if question else []
    chosen = [*(["--metric", metric] if metric else []), *([ACROSS] if across else [])]
    uids = [run.uid for run in runs]
    return (
        *_database(store),
        *request.lines(runs),
        *(
            item.command
            for section in sections
            for item in section.comparisons
            if item.table is not None  # what is refused here is refused there
        ),
        *(item.command for section in sections for item in section.figures),
        typed("mlux", "report", *uids, *asked, *chosen, "-o", target),
    )


def _database(store: Store) -> Iterator[str]:
    """How the commands find the database."""
    if store.path is None:
        yield f"# with MLUX_DB as the URL of {store.location}"
        return
    yield "# in the folder of the database"
    if store.path.name != DEFAULT_NAME:
        yield f"export MLUX_DB={typed(store.path.name)}"


def sql(facts: Mapping[str, Any], store: Store) -> str:
    """The SELECT that gives a chart's numbers.

    Args:
        facts: The chart's `usermeta`: runs, chart, metric, prompts.
        store: The notebook.
    """
    chart, metric = facts["chart"], facts["metric"]
    if chart == "lens_grid":
        uid = facts["runs"][0]
        where = [f"run = {_quoted(uid)}", "rank = 0", _trials(uid, facts, store)]
        return _select("layer, position, trial, token, probability", "predictions", where,
                       "trial, position, layer")  # fmt: skip
    runs = ", ".join(map(_quoted, facts["runs"]))
    if metric is None:  # the parts of a sum
        where = [f"run = {_quoted(facts['runs'][0])}", "metric LIKE '%_contribution'"]
    else:
        where = [f"run IN ({runs})", f"metric = {_quoted(metric)}"]
    if chart == "patching_heatmap":
        where += [_trials(facts["runs"][0], facts, store), "head IS NULL"]
        return _select("run, condition, layer, position, value", "results", where,
                       "run, condition, layer, position")  # fmt: skip
    by = _GROUPS.get(chart, "run, condition, layer, head")
    if chart in ("layer_profile", "head_heatmap", "condition_heatmap"):
        where += [f"{name} IS NOT NULL" for name in ("layer", "head") if name in by.split(", ")]
    where += [] if facts["heads"] else ["head IS NULL"]
    where += [] if facts["controls"] else ["condition NOT LIKE '%control=%'"]
    inner = _select(f"{by}, prompt, avg(value) AS value", "results", where, "")
    return (
        f"SELECT {by}, avg(value) AS value, count(*) AS prompts FROM (\n"
        f"{_indented(inner)}\n  GROUP BY {by}, prompt\n"
        f") AS per_prompt GROUP BY {by} ORDER BY {by}"
    )


def texts_sql(uids: Sequence[str]) -> str:
    """The SELECT that gives what the models wrote."""
    return (
        "SELECT r.uid AS run, p.text AS prompt, c.label AS condition, g.sample, g.text\n"
        "FROM generations AS g JOIN runs AS r ON r.id = g.run_id\n"
        "  JOIN trials AS t ON t.run_id = g.run_id AND t.trial = g.trial\n"
        "  JOIN prompts AS p ON p.id = t.prompt_id\n"
        "  JOIN conditions AS c ON c.id = t.condition_id\n"
        f"WHERE r.uid IN ({', '.join(map(_quoted, uids))})"
    )


_GROUPS = {
    "layer_profile": "run, condition, layer",
    "head_heatmap": "run, condition, layer, head",
    "condition_heatmap": "run, condition, layer",
    "dose_response": "run, condition",
    "conditions": "run, condition",
    "attribution_waterfall": "metric, layer, head",
}


def _select(columns: str, view: str, where: Sequence[str], order: str) -> str:
    conditions = "\n  AND ".join(where)
    ordered = f"\nORDER BY {order}" if order else ""
    return f"SELECT {columns} FROM {view}\nWHERE {conditions}{ordered}"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _trials(uid: str, facts: Mapping[str, Any], store: Store) -> str:
    """The trials of some prompts, by number: a prompt may hold anything, a number may not."""
    run = load_run(store, uid)
    found = [
        place
        for place, trial in enumerate(run.trials)
        if run.prompts.prompts[trial.prompt].text in facts["prompts"]
        and facts["condition"] in (None, _label(trial.condition))
    ]
    return f"trial IN ({', '.join(map(str, found))})"


def _label(condition: Mapping[str, str]) -> str:
    """A condition as the views write it."""
    return ", ".join(f"{name}={value}" for name, value in condition.items())


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
