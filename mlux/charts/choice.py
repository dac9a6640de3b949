"""Which chart suits a run: chosen by what its numbers are given for, not by the experiment's name.

A metric of heads becomes a head heat map, one of layers and positions a patching heat map, one of
layers a profile, one of doses a dose–response; so a person's own experiment is drawn as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mlux import compare
from mlux.charts import data, labels
from mlux.charts.grids import head_heatmap, patching_heatmap
from mlux.charts.lens import lens_grid
from mlux.charts.lines import condition_parts, dose_response, layer_profile
from mlux.charts.points import conditions, parallel_coordinates, run_scatter
from mlux.charts.saving import Chart
from mlux.charts.texts import generations
from mlux.charts.waterfall import attribution_waterfall
from mlux.errors import MluxError, ParameterError, RunError, UnknownNameError
from mlux.results import Metric
from mlux.store import load_run, resolve_run
from mlux.store.frames import Database, RunReference, Runs, opened

CHARTS = {
    "layer_profile": "a metric by layer, with bands",
    "head_heatmap": "a metric by layer and head",
    "patching_heatmap": "an effect by layer and token",
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
_MOST_DRAWN = 4


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A chart that suits some runs."""

    chart: str
    metric: str | None


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
        metric: What to draw; by default the first shared metric for which higher is better, or
            else the first. For `run_scatter` two metrics, as `x,y`.
        prompt: A part of the text of the prompt to draw, where a chart shows one prompt; by
            default the first.
        db: The notebook.

    Returns:
        An Altair chart.

    Raises:
        UnknownNameError: If there is no such run, chart or metric.
        RunError: If the runs have no metric in common, or nothing that could be drawn.
        ParameterError: If the chart does not suit what the runs measured.
    """
    if chart is not None and chart not in CHARTS:
        raise UnknownNameError("chart", chart, CHARTS)
    with opened(db) as store:
        stored = [load_run(store, resolve_run(store, run)) for run in _names(runs)]
        uids = [run.uid for run in stored]
        shared = shared_metrics([run.metrics for run in stored])
        if chart is None:
            chosen = _suggested(uids, shared, metric, store)
            if not chosen:
                raise RunError(_nothing(uids, [run.metrics for run in stored]))
            chart, metric = chosen[0].chart, chosen[0].metric
        return _draw(chart, uids, shared, metric, prompt, store)


def suggestions(runs: Runs, *, metric: str | None = None, db: Database = None) -> list[Suggestion]:
    """The charts that suit runs, the most telling first; none if they have nothing in common."""
    with opened(db) as store:
        stored = [load_run(store, resolve_run(store, run)) for run in _names(runs)]
        shared = shared_metrics([run.metrics for run in stored])
        return _suggested([run.uid for run in stored], shared, metric, store)


def shared_metrics(metrics: Sequence[Sequence[Metric]]) -> list[Metric]:
    """The metrics that all runs declare: those for which higher is better first."""
    names = [{metric.name for metric in of_run} for of_run in metrics]
    shared = [metric for metric in metrics[0] if all(metric.name in own for own in names)]
    return sorted(shared, key=lambda metric: metric.better != "higher")


def _names(runs: Runs) -> list[str]:
    several: Sequence[RunReference] = (
        [runs] if isinstance(runs, str) or hasattr(runs, "uid") else list(runs)
    )
    if not several:
        raise ParameterError("No runs are given. List them with compare.runs() or mlux runs list.")
    return [run if isinstance(run, str) else run.uid for run in several]


def _nothing(uids: Sequence[str], metrics: Sequence[Sequence[Metric]]) -> str:
    found = "; ".join(
        f"{uid}: {', '.join(metric.name for metric in own) or 'none'}"
        for uid, own in zip(uids, metrics, strict=True)
    )
    return f"Nothing to draw: these runs share no metric that has values. They have {found}."


def _suggested(
    uids: list[str], shared: list[Metric], metric: str | None, db: Database
) -> list[Suggestion]:
    wanted = [item for item in shared if metric in (None, item.name)]
    if metric is not None and not wanted:
        raise UnknownNameError("metric that these runs share", metric, [m.name for m in shared])
    found: list[Suggestion] = []
    for item in wanted:
        found += [
            Suggestion(chart=name, metric=item.name)
            for name in _by_axes(compare.layer_results(uids, item.name, db))
        ]
        if len(found) >= _MOST_DRAWN:
            break
    # One chart of each kind says more than the same kind of every metric.
    first = list({item.chart: item for item in reversed(found)}.values())[::-1]
    if metric is None and len(compare.predictions(uids[:1], db)):
        first.append(Suggestion(chart="lens_grid", metric=None))
    if metric is None and len(compare.generations(uids, db)):
        first.append(Suggestion(chart="generations", metric=None))
    return first


def _by_axes(frame: pd.DataFrame) -> list[str]:
    """The charts of one metric, by the axes that its rows have."""
    if not len(frame):
        return []
    layers = frame[frame["layer"].notna()]
    heads = layers[layers["head"].notna()]
    positions = layers[layers["head"].isna() & layers["position"].notna()]
    found = []
    if len(heads):
        found.append("head_heatmap")
    if len(positions) and _several_positions(positions):
        found.append("patching_heatmap")
    elif len(layers) > len(heads):
        found.append("layer_profile")
    if found:
        return found
    return ["dose_response" if _has_doses(frame) else "conditions"]


def _several_positions(rows: pd.DataFrame) -> bool:
    plain = rows[["run", "prompt", "condition", "position"]].astype(object)
    by = plain.groupby(["run", "prompt", "condition"])["position"]
    return bool((by.nunique() > 1).any())


def _has_doses(frame: pd.DataFrame) -> bool:
    values: dict[str, set[str]] = {}
    for label in data.distinct(frame, "condition"):
        for name, value in condition_parts(label).items():
            values.setdefault(name, set()).add(value)
    varying = [found for found in values.values() if len(found) > 2 and all(map(_number, found))]
    return len(varying) == 1


def _number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).replace("e", "", 1).isdigit()


def _draw(
    chart: str,
    uids: list[str],
    shared: list[Metric],
    metric: str | None,
    prompt: str | None,
    db: Database,
) -> Chart:
    if chart == "lens_grid":
        return _lens(uids, prompt, db)
    if chart == "generations":
        return generations(_of_prompts(compare.generations(uids, db), prompt))
    if chart in ("run_scatter", "parallel_coordinates"):
        return _of_runs(chart, uids, shared, metric, db)
    if metric is None:
        if not shared:
            raise RunError("These runs share no metric; draw them one by one.")
        metric = shared[0].name
    frame = compare.layer_results(uids, metric, db)
    label = _with_unit(metric, shared)
    if chart == "patching_heatmap":
        return _patching(frame, label, prompt, db)
    frame = _of_prompts(frame, prompt)
    if chart == "head_heatmap":
        return head_heatmap(frame, label=label)
    if chart == "layer_profile":
        # Values of single heads would pull the mean of a layer towards them.
        whole = frame[frame["head"].isna()]
        return layer_profile(whole if len(whole) else frame, label=label)
    if chart == "dose_response":
        return dose_response(frame, label=label)
    if chart == "attribution_waterfall":
        return attribution_waterfall(frame, label=label)
    return conditions(frame, label=label)


def _with_unit(metric: str, shared: Sequence[Metric]) -> str:
    unit = next((item.unit for item in shared if item.name == metric), "")
    return f"{metric} ({unit})" if unit and unit not in metric else metric


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


def _patching(frame: pd.DataFrame, label: str, prompt: str | None, db: Database) -> Chart:
    rows = frame[frame["head"].isna() & frame["position"].notna()]
    if not len(rows):
        raise ParameterError("patching_heatmap needs values by position; these runs have none.")
    one = _first_prompt(rows, prompt)
    text = data.distinct(one, "prompt")[0]
    return patching_heatmap(one, _tokens(one, db), label=label).properties(
        title=_below(one, f"{data.distinct(one, 'metric')[0]} by layer and token", text)
    )


def _below(frame: pd.DataFrame, title: str, text: str) -> object:
    from mlux.charts import style

    return style.heading(title, data.about(frame, labels.ending(text, 90)))


def _lens(uids: list[str], prompt: str | None, db: Database) -> Chart:
    frame = compare.predictions(uids[0], db)
    if not len(frame):
        raise ParameterError(f"lens_grid needs top tokens; run {uids[0]} has stored none.")
    chosen = _of_prompts(frame, prompt)
    chosen = chosen[chosen["condition"].astype(object) == data.distinct(chosen, "condition")[0]]
    if chosen.groupby(chosen["prompt"].astype(object))["position"].nunique().max() > 1:
        one = _first_prompt(chosen, prompt)
        return lens_grid(one, _tokens(one, db))
    first = data.distinct(chosen, "prompt")[:_LENS_PROMPTS]
    return lens_grid(chosen[chosen["prompt"].astype(object).isin(first)])


def _of_runs(
    chart: str, uids: list[str], shared: list[Metric], metric: str | None, db: Database
) -> Chart:
    if chart == "parallel_coordinates":
        return parallel_coordinates(compare.layer_results(uids, db=db))
    names = metric.split(",") if metric else [item.name for item in shared[:2]]
    if len(names) != 2:
        raise MluxError(f"run_scatter needs two metrics, as in --metric x,y; given: {len(names)}.")
    parts = [compare.layer_results(uids, name, db) for name in names]
    return run_scatter(pd.concat(parts), x=names[0], y=names[1])
