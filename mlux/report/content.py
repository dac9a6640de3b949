"""What a report says, before it has a form: runs, charts, statistics, texts, claims, commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mlux import compare
from mlux.charts.choice import chart_for
from mlux.charts.saving import Chart
from mlux.charts.suitable import Suggestion, named, suggestions
from mlux.compare.differences import counts
from mlux.errors import MluxError, UnknownNameError
from mlux.report import provenance, reproduce
from mlux.store import load_run, resolve_run
from mlux.store.claims import Claim, list_claims
from mlux.store.frames import Database, Runs, opened
from mlux.store.records import StoredRun
from mlux.store.session import Store

_MOST_COMPARED = 4
_MOST_ROWS = 40
_MOST_PROMPTS = 12
_AXES = {
    "layer_profile": ("layer",),
    "head_heatmap": ("layer", "head"),
    "patching_heatmap": ("layer",),
    "condition_heatmap": ("condition", "layer"),
    "dose_response": ("condition",),
    "conditions": ("condition",),
}
LEVEL = 0.05
"""The false discovery rate below which a difference is called significant."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with the SQL that gives its numbers and the command that draws it again."""

    caption: str
    chart: Chart
    command: str
    sql: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a run differs from the first, or why that cannot be said.

    Attributes:
        names: What to call the two: their models, or their uids where the model is the same.
        finding: One sentence.
        table: What `compare.diff` returns, the rows that matter most; None if it was refused.
        hidden: How many rows are left out.
        notes: What to keep in mind.
        method: How the numbers came about.
    """

    baseline: str
    run: str
    names: tuple[str, str]
    metric: str
    finding: str
    table: pd.DataFrame | None
    hidden: int
    notes: tuple[str, ...]
    method: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """What belongs to one experiment."""

    experiment: str
    description: str
    paper: str
    runs: tuple[StoredRun, ...]
    metrics: tuple[Any, ...]
    figures: tuple[Figure, ...]
    comparisons: tuple[Comparison, ...]
    texts: pd.DataFrame
    texts_sql: str
    hidden_prompts: int
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a report says.

    Attributes:
        provenance: Where the runs come from, a row a fact.
        claims: Those that rest on at least one of the runs.
        commands: What to type to run everything again, in order.
    """

    title: str
    question: str | None
    runs: tuple[StoredRun, ...]
    sections: tuple[Section, ...]
    provenance: tuple[provenance.Fact, ...]
    claims: tuple[Claim, ...]
    commands: tuple[str, ...]


def gather(
    runs: Runs,
    *,
    question: str | None = None,
    metric: str | None = None,
    across_quantization: bool = False,
    target: str = "report.html",
    db: Database = None,
) -> Report:
    """Collects what a report of these runs says.

    Args:
        runs: A run, or several.
        question: What they should answer.
        metric: What to draw and compare; by default what suits each experiment.
        across_quantization: Whether models of different precision may be compared.
        target: The report's file, for its own command.
        db: The notebook.

    Raises:
        UnknownNameError: If there is no such run, or no run has the metric.
    """
    with opened(db) as store:
        uids = list(dict.fromkeys(resolve_run(store, run) for run in named(runs)))
        stored = [load_run(store, uid) for uid in uids]
        known = [item.name for run in stored for item in run.metrics]
        if metric is not None and metric not in known:
            raise UnknownNameError("metric in these runs", metric, known)
        by_experiment: dict[str, list[StoredRun]] = {}
        for run in stored:
            by_experiment.setdefault(run.experiment, []).append(run)
        sections = tuple(
            _section(group, metric, across_quantization, store) for group in by_experiment.values()
        )
        claims = tuple(list_claims(store, runs=uids))
        commands = reproduce.commands(
            stored, sections, question, metric, across_quantization, target, store
        )
    return Report(
        title=_title(stored),
        question=question,
        runs=tuple(stored),
        sections=sections,
        provenance=provenance.facts(stored),
        claims=claims,
        commands=commands,
    )


def _title(runs: Sequence[StoredRun]) -> str:
    experiments = dict.fromkeys(run.experiment for run in runs)
    models = dict.fromkeys(run.model_label for run in runs)
    return f"{', '.join(experiments)} on {', '.join(models)}"


def _section(runs: list[StoredRun], metric: str | None, across: bool, store: Store) -> Section:
    uids = [run.uid for run in runs]
    if metric is not None and not all(metric in {m.name for m in r.metrics} for r in runs):
        metric = None
    suggested = suggestions(uids, metric=metric, db=store)
    problems = [
        f"Run {run.uid} is {run.status}: {len(run.pending)} of {len(run.trials)} trials are "
        f"missing.{f' {run.error}' if run.error else ''}"
        for run in runs
        if run.status != "done"
    ]
    problems += [f"Run {run.uid}: {run.gate_sentence}" for run in runs if run.gate_sentence]
    drawn = [item for item in suggested if item.chart != "generations"]
    figures = []
    for item in drawn:
        try:
            figures.append(_figure(item, uids, runs[0].experiment, store))
        except MluxError as error:
            problems.append(f"No {item.chart}: {error}")
    texts = compare.generations(uids, store)
    prompts = list(texts["prompt"].astype(object).unique()) if len(texts) else []
    shown = texts[texts["prompt"].astype(object).isin(prompts[:_MOST_PROMPTS])]
    return Section(
        experiment=runs[0].experiment,
        description=runs[0].description,
        paper=runs[0].paper,
        runs=tuple(runs),
        metrics=tuple({item.name: item for run in runs for item in run.metrics}.values()),
        figures=tuple(figures),
        comparisons=tuple(_comparisons(drawn, runs, across, store)),
        texts=shown,
        texts_sql=reproduce.texts_sql(uids) if len(shown) else "",
        hidden_prompts=max(0, len(prompts) - _MOST_PROMPTS),
        problems=tuple(problems),
    )


def _figure(item: Suggestion, uids: list[str], experiment: str, store: Store) -> Figure:
    chart = chart_for(uids, chart=item.chart, metric=item.metric, db=store)
    spec: Any = chart.to_dict()
    return Figure(
        caption=spec["title"]["text"],
        chart=chart,
        command=reproduce.plot(uids, item, f"{experiment}-{item.chart}.svg"),
        sql=reproduce.sql(spec["usermeta"]["mlux"], store),
    )


def _comparisons(
    drawn: Sequence[Suggestion], runs: Sequence[StoredRun], across: bool, store: Store
) -> list[Comparison]:
    """The first run against each of the others, by the axes of the first chart."""
    measured = [item for item in drawn if item.metric and item.chart in _AXES]
    if not measured:
        return []
    metric, axes = str(measured[0].metric), list(_AXES[measured[0].chart])
    others = runs[1 : _MOST_COMPARED + 1]
    return [_comparison(runs[0], run, metric, axes, across, store) for run in others]


def _comparison(
    first: StoredRun, second: StoredRun, metric: str, axes: list[str], across: bool, store: Store
) -> Comparison:
    a, b = first.uid, second.uid
    command = reproduce.comparison(a, b, metric, axes, across)
    labels = first.model_label, second.model_label
    names = labels if labels[0] != labels[1] else (a, b)
    try:
        table = compare.diff(a, b, metric=metric, by=axes, across_quantization=across, db=store)
    except MluxError as error:
        return Comparison(
            baseline=a, run=b, names=names, metric=metric, finding=str(error), table=None, hidden=0,
            notes=(), method="", command=command,
        )  # fmt: skip
    notes = tuple(table.attrs.get("notes", ()))
    table = table.dropna(subset=["estimate"]).reset_index(drop=True)
    kept = table.loc[table["q"].fillna(1).nsmallest(_MOST_ROWS, keep="all").index[:_MOST_ROWS]]
    return Comparison(
        baseline=a,
        run=b,
        names=names,
        metric=metric,
        finding=_finding(table, axes, names, metric),
        table=kept.sort_index(),
        hidden=len(table) - len(kept),
        notes=notes,
        method=_method(table.attrs),
        command=command,
    )


def _method(facts: Mapping[Any, Any]) -> str:
    return (
        f"Paired by prompt: {facts['method']}. {facts['level']:.0%} intervals, "
        f"{facts['n_resamples']:,} resamples, seed {facts['seed']}; q: {facts['correction']}."
    )


def _finding(table: pd.DataFrame, axes: list[str], names: tuple[str, str], metric: str) -> str:
    """What the table says, in one sentence."""
    significant = table["q"] < LEVEL
    real = table[counts(table, LEVEL)]
    what = f"{metric} of {names[1]} minus {names[0]}"
    where = " and ".join(axes)
    smallest = f"{table.attrs['smallest']:.2g}"
    tiny = int(significant.sum()) - len(real)
    also = f" At {tiny} more q is as small, but the difference below {smallest}." if tiny else ""
    if not len(real):
        return (
            f"{what}: at none of {len(table)} places by {where} is the difference significant "
            f"(q < {LEVEL:g}) and at least {smallest}.{also}"
        )
    strongest = real.loc[[real["estimate"].abs().idxmax()]].to_dict("records")[0]
    place = ", ".join(f"{name} {strongest[name]}" for name in axes if pd.notna(strongest[name]))
    return (
        f"{what}: significant (q < {LEVEL:g}) and at least {smallest} at {len(real)} of "
        f"{len(table)} places by {where}; "
        f"the largest difference is {strongest['estimate']:+.4g} "
        f"[{strongest['low']:.4g}, {strongest['high']:.4g}], {abs(strongest['size']):.0%} of the "
        f"largest mean, at {place} (q = {strongest['q']:.2g}, n = {strongest['n']}).{also}"
    )
