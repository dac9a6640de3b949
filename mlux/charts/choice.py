"""Drawing stored runs: fetches what a chart needs, and chooses the chart if none is named."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mlux import compare
from mlux.charts import data, labels, style
from mlux.charts.grids import condition_heatmap, head_heatmap, patching_heatmap
from mlux.charts.lens import lens_grid
from mlux.charts.lines import dose_response, layer_profile
from mlux.charts.points import conditions, parallel_coordinates, run_scatter
from mlux.charts.saving import Chart
from mlux.charts.suitable import contributions, named, shared_metrics, suggested
from mlux.charts.texts import generations
from mlux.charts.waterfall import attribution_waterfall, component_name
from mlux.errors import MluxError, ParameterError, RunError, UnknownNameError
from mlux.results import Metric
from mlux.store import load_run, resolve_run
from mlux.store.frames import Database, Runs, opened
from mlux.store.records import StoredRun

CHARTS = {
    "layer_profile": "a metric by layer, with bands",
    "head_heatmap": "a metric by layer and head",
    "patching_heatmap": "an effect by layer and token",
    "condition_heatmap": "a metric by layer and a number of the conditions",
    "lens_grid": "the top token at each layer",
    "dose_response": "a metric against the strength of an intervention",
    "attribution_waterfall": "what each component adds",
    "conditions": "a metric by condition",
    "run_scatter": "runs: one metric against another",
    "parallel_coordinates": "runs across all their numbers",
    "generations": "what models wrote, side by side",
}
"""What `chart_for` can draw of stored runs."""

_LENS_PROMPTS = 8
_MOST_SERIES, _MOST_TEXTS = 8, 4  # above these, controls are left out


def chart_for(
    runs: Runs,
    *,
    chart: str | None = None,
    metric: str | None = None,
    prompt: str | None = None,
    db: Database = None,
) -> Chart:
    """Draws stored runs.

    Args:
        runs: A run, or several with a metric in common.
        chart: One of `CHARTS`; by default the one that suits what the runs measured.
        metric: What to draw; by default the shared metric with the most axes of layer, head,
            position and condition, the first declared of several, those for which lower is better
            last. For `run_scatter` two metrics, as `x,y`.
        prompt: A part of the text of the prompt to draw, where a chart shows one prompt; by
            default the first.
        db: The notebook.

    Returns:
        An Altair chart. Its `usermeta` says which runs, metric and prompts it shows; no prompts
        are all of them.

    Raises:
        UnknownNameError: If there is no such run, chart or metric.
        RunError: If the runs have no metric in common, or nothing that could be drawn.
        ParameterError: If the chart does not suit what the runs measured.
    """
    if chart is not None and chart not in CHARTS:
        raise UnknownNameError("chart", chart, CHARTS)
    with opened(db) as store:
        stored = [load_run(store, resolve_run(store, run)) for run in named(runs)]
        uids = [run.uid for run in stored]
        shared = shared_metrics([run.metrics for run in stored])
        if chart is None:
            chosen = suggested(uids, shared, metric, store)
            if not chosen:
                said = [f"Run {run.uid}: {text}" for run in stored if (text := run.gate_sentence)]
                nothing = _nothing(uids, [run.metrics for run in stored])
                raise RunError(" ".join([nothing, *said]))
            chart, metric = chosen[0].chart, chosen[0].metric
        drawn = _draw(chart, uids, shared, metric, prompt, store)
        _say(drawn.chart, stored)
        facts = {"runs": uids, "chart": chart, "metric": drawn.metric, "heads": drawn.heads}
        facts |= {"prompts": list(drawn.prompts), "condition": drawn.condition}
        facts["controls"] = drawn.controls
        marked: Chart = drawn.chart.properties(usermeta={"mlux": facts})
        return marked


def _say(chart: Any, runs: Sequence[StoredRun]) -> None:
    """Adds below the title how many prompts are solved, where it is not all of them."""
    several = len(runs) > 1
    lines = [
        f"{run.model_label}: {run.gate_sentence}" if several else run.gate_sentence
        for run in runs
        if run.gate_sentence
    ]
    title: Any = getattr(chart, "title", None)
    if lines and hasattr(title, "subtitle"):
        before = title.subtitle if isinstance(title.subtitle, list) else []
        title.subtitle = [*before, *lines]


def _nothing(uids: Sequence[str], metrics: Sequence[Sequence[Metric]]) -> str:
    found = "; ".join(
        f"{uid}: {', '.join(metric.name for metric in own) or 'none'}"
        for uid, own in zip(uids, metrics, strict=True)
    )
    return f"Nothing to draw: these runs share no metric that has values. They have {found}."


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """A chart and what it shows.

    Attributes:
        prompts: The prompts that it shows; none are all of them.
        condition: The only condition that it shows.
        heads: Whether results of single heads are in it.
        controls: Whether results of controls are in it.
    """

    chart: Chart
    metric: str | None = None
    prompts: Sequence[str] = ()
    condition: str | None = None
    heads: bool = True
    controls: bool = True


def _draw(
    chart: str,
    uids: list[str],
    shared: list[Metric],
    metric: str | None,
    prompt: str | None,
    db: Database,
) -> _Drawn:
    if chart == "lens_grid":
        return _lens(uids, prompt, db)
    if chart == "generations":
        texts = _of_prompts(compare.generations(uids, db), prompt)
        texts = _without_controls(texts) if _too_many(texts, _MOST_TEXTS) else texts
        return _Drawn(chart=generations(texts), prompts=_chosen(texts, prompt))
    if chart in ("run_scatter", "parallel_coordinates"):
        return _of_runs(chart, uids, shared, metric, db)
    if chart == "attribution_waterfall" and metric is None:
        return _waterfall(uids, shared, prompt, db)
    if metric is None:
        if not shared:
            raise RunError("These runs share no metric; draw them one by one.")
        metric = shared[0].name
    frame = compare.layer_results(uids, metric, db)
    unit = next((item.unit for item in shared if item.name == metric), "")
    how: dict[str, Any] = {"label": f"{metric} ({unit})" if unit not in metric else metric}
    if unit == "rank" and chart != "attribution_waterfall":  # from 0 to the vocabulary's size
        how["logarithmic"] = True
    if chart == "patching_heatmap":
        return _patching(frame, metric, how, prompt, db)
    frame = _of_prompts(frame, prompt)
    heads = controls = True
    if chart in ("layer_profile", "condition_heatmap") and frame["head"].isna().any():
        # Values of single heads would pull the mean of a layer towards them.
        frame, heads = frame[frame["head"].isna()], False
    # Only what has a place in the chart is counted.
    placed = frame[frame[_PLACES[chart]].notna().all(axis=1)] if chart in _PLACES else frame
    if chart != "dose_response" and _too_many(placed, _MOST_SERIES):
        frame, controls = _without_controls(frame), False
    drawn: Any = _SIMPLE[chart](frame, **how)
    if not controls:
        drawn.title.subtitle = [*drawn.title.subtitle, "controls are left out"]
    return _Drawn(
        chart=drawn,
        metric=metric,
        prompts=_chosen(frame, prompt),
        heads=heads,
        controls=controls,
    )


def _too_many(frame: pd.DataFrame, most: int) -> bool:
    return len(frame[["run", "condition"]].drop_duplicates()) > most


def _without_controls(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of conditions that control nothing; all if there are no others."""
    controls = frame["condition"].astype(str).str.contains(r"(?:^|, )control=")
    return frame[~controls] if not controls.all() else frame


def _waterfall(
    uids: list[str], shared: Sequence[Metric], prompt: str | None, db: Database
) -> _Drawn:
    """The parts of one sum: every metric that is a contribution, controls left out."""
    names = contributions(shared)
    if not names:
        raise ParameterError("attribution_waterfall: choose one metric of these runs with metric=.")
    frame = pd.concat([compare.layer_results(uids[:1], name, db) for name in names])
    frame = _without_controls(_of_prompts(frame, prompt))
    parts = zip(frame["metric"], frame["layer"], frame["head"], strict=True)
    component = [
        component_name(name.removesuffix("_contribution"), *place) for name, *place in parts
    ]
    frame = frame.assign(component=component).drop(columns="metric")
    drawn = attribution_waterfall(
        frame, title="Parts of the logit difference", label=shared[0].unit or "contribution"
    )
    return _Drawn(chart=drawn, prompts=_chosen(frame, prompt), controls=False)


_SIMPLE: dict[str, Callable[..., Chart]] = {
    "layer_profile": layer_profile,
    "head_heatmap": head_heatmap,
    "condition_heatmap": condition_heatmap,
    "dose_response": dose_response,
    "attribution_waterfall": attribution_waterfall,
    "conditions": conditions,
}


_PLACES = {
    "layer_profile": ["layer"],
    "condition_heatmap": ["layer"],
    "head_heatmap": ["layer", "head"],
}


def _chosen(frame: pd.DataFrame, prompt: str | None) -> list[str]:
    return [] if prompt is None else data.distinct(frame, "prompt")


def _of_prompts(frame: pd.DataFrame, prompt: str | None) -> pd.DataFrame:
    """The rows of the prompts that hold a text; all without one."""
    if prompt is None:
        return frame
    texts = frame["prompt"].astype(str)
    chosen = frame[texts.str.contains(prompt, regex=False)]
    if not len(chosen):
        known = ", ".join(repr(labels.short(text)) for text in data.distinct(frame, "prompt")[:3])
        raise ParameterError(f"No prompt of these runs holds {prompt!r}. The first are {known}.")
    return chosen


def _first_prompt(frame: pd.DataFrame, prompt: str | None) -> pd.DataFrame:
    chosen = _of_prompts(frame, prompt)
    return chosen[chosen["prompt"].astype(object) == data.distinct(chosen, "prompt")[0]]


def _tokens(frame: pd.DataFrame, db: Database) -> list[str] | None:
    """The tokens of the prompt that the frame is of; None if they were not stored."""
    run, text = data.distinct(frame, "run")[0], data.distinct(frame, "prompt")[0]
    found = compare.tokens(run, db=db)
    found = found[found["prompt"].astype(object) == text].drop_duplicates("position")
    return [str(token) for token in found.sort_values("position")["token"]] or None


def _patching(
    frame: pd.DataFrame, metric: str, how: dict[str, Any], prompt: str | None, db: Database
) -> _Drawn:
    rows = frame[frame["head"].isna() & frame["position"].notna()]
    if not len(rows):
        raise ParameterError("patching_heatmap needs values by position; these runs have none.")
    one = _first_prompt(rows, prompt)
    text = data.distinct(one, "prompt")[0]
    title = style.heading(f"{metric} by layer and token", data.about(one, labels.ending(text, 90)))
    chart = patching_heatmap(one, _tokens(one, db), **how).properties(title=title)
    return _Drawn(chart=chart, metric=metric, prompts=[text], heads=False)


def _lens(uids: list[str], prompt: str | None, db: Database) -> _Drawn:
    frame = compare.predictions(uids[0], db)
    if not len(frame):
        raise ParameterError(f"lens_grid needs top tokens; run {uids[0]} has stored none.")
    chosen = _of_prompts(frame, prompt)
    condition = data.distinct(chosen, "condition")[0]
    chosen = chosen[chosen["condition"].astype(object) == condition]
    if chosen.groupby(chosen["prompt"].astype(object))["position"].nunique().max() > 1:
        one = _first_prompt(chosen, prompt)
        grid, shown = lens_grid(one, _tokens(one, db)), data.distinct(one, "prompt")
        return _Drawn(chart=grid, prompts=shown, condition=condition)
    first = data.distinct(chosen, "prompt")[:_LENS_PROMPTS]
    grid = lens_grid(chosen[chosen["prompt"].astype(object).isin(first)])
    return _Drawn(chart=grid, prompts=first, condition=condition)


def _of_runs(
    chart: str, uids: list[str], shared: list[Metric], metric: str | None, db: Database
) -> _Drawn:
    if chart == "parallel_coordinates":
        return _Drawn(chart=parallel_coordinates(compare.layer_results(uids, db=db)))
    names = metric.split(",") if metric else [item.name for item in shared[:2]]
    if len(names) != 2:
        raise MluxError(f"run_scatter needs two metrics, as in --metric x,y; given: {len(names)}.")
    parts = [compare.layer_results(uids, name, db) for name in names]
    scatter = run_scatter(pd.concat(parts), x=names[0], y=names[1])
    return _Drawn(chart=scatter, metric=",".join(names))
