"""Which charts suit some runs: decided by what their numbers are given for, not by their names.

A metric of heads becomes a head heat map, one of layers and positions a patching heat map, one of
layers a profile, or a map if the conditions have a number of many values, one of doses a
dose–response; so a person's own experiment is drawn as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mlux import compare, gate
from mlux.charts.lines import MOST_SERIES
from mlux.charts.parts import doses, numeric_part
from mlux.errors import ParameterError, UnknownNameError
from mlux.results import Metric
from mlux.store import load_run, resolve_run
from mlux.store.frames import Database, RunReference, Runs, opened

_MOST_DRAWN = 4


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A chart that suits some runs."""

    chart: str
    metric: str | None


def suggestions(runs: Runs, *, metric: str | None = None, db: Database = None) -> list[Suggestion]:
    """The charts that suit runs, the most telling first; none if they have nothing in common."""
    with opened(db) as store:
        stored = [load_run(store, resolve_run(store, run)) for run in named(runs)]
        shared = shared_metrics([run.metrics for run in stored])
        return suggested([run.uid for run in stored], shared, metric, store)


def shared_metrics(metrics: Sequence[Sequence[Metric]]) -> list[Metric]:
    """The metrics that all runs declare, in their order; those for which lower is better last."""
    names = [{metric.name for metric in of_run} for of_run in metrics]
    shared = [metric for metric in metrics[0] if all(metric.name in own for own in names)]
    return sorted(shared, key=lambda metric: metric.better == "lower")


def named(runs: Runs) -> list[str]:
    """What is given as one run or several, as names of runs."""
    several: Sequence[RunReference] = (
        [runs] if isinstance(runs, str) or hasattr(runs, "uid") else list(runs)
    )
    if not several:
        raise ParameterError("No runs are given. List them with compare.runs() or mlux runs list.")
    return [run if isinstance(run, str) else run.uid for run in several]


def suggested(
    uids: list[str], shared: list[Metric], metric: str | None, db: Database
) -> list[Suggestion]:
    """As `suggestions`, of runs whose shared metrics are known."""
    wanted = [item for item in shared if metric in (None, item.name)]
    if metric is not None and not wanted:
        raise UnknownNameError("metric that these runs share", metric, [m.name for m in shared])
    found: list[Suggestion] = []
    if metric is None and len(contributions(shared)) > 1:
        found.append(Suggestion(chart="attribution_waterfall", metric=None))
    # What the gate found is drawn if it is asked for; elsewhere the sentence says it.
    passed = {item.name for item in gate.METRICS} if metric is None else set()
    drawn = []
    for item in wanted:
        frame = compare.layer_results(uids, item.name, db)
        if len(frame) and item.name not in passed:
            drawn.append((_weight(frame), item.name, _by_axes(frame)))
    drawn.sort(key=lambda one: one[0], reverse=True)  # which keeps the declared order of equals
    for weight, name, kinds in drawn:
        # One number, or a baseline that no condition changes, is no chart beside others.
        if any(weight) or not found:
            found += [Suggestion(chart=kind, metric=name) for kind in kinds]
        if len(found) >= _MOST_DRAWN:
            break
    # One chart of each kind says more than the same kind of every metric.
    first = list({item.chart: item for item in reversed(found)}.values())[::-1]
    if metric is None and len(compare.predictions(uids[:1], db)):
        first.append(Suggestion(chart="lens_grid", metric=None))
    if metric is None and len(compare.generations(uids, db)):
        first.append(Suggestion(chart="generations", metric=None))
    return first


def contributions(shared: Sequence[Metric]) -> list[str]:
    """The metrics that are parts of one sum, as of direct logit attribution."""
    return [metric.name for metric in shared if metric.name.endswith("_contribution")]


def _weight(frame: pd.DataFrame) -> tuple[bool, int]:
    """How telling a metric is: whether conditions or runs change it, and along how many axes."""
    places = ["layer", "head", "position"]
    plain = frame[["prompt", *places, "value"]].astype(object)
    of_place = plain.groupby(["prompt", *places], dropna=False)["value"]
    n_axes = sum(frame[name].nunique() > 1 for name in places)
    return bool((of_place.nunique() > 1).any()), n_axes


def _by_axes(frame: pd.DataFrame) -> list[str]:
    """The charts of one metric, by the axes that its rows have."""
    layers = frame[frame["layer"].notna()]
    heads = layers[layers["head"].notna()]
    positions = layers[layers["head"].isna() & layers["position"].notna()]
    dose = numeric_part(frame)
    found = []
    if len(heads):
        found.append("head_heatmap")
    if len(positions) and _several_positions(positions):
        found.append("patching_heatmap")
    elif layers[layers["head"].isna()]["layer"].nunique() > 1:
        found.append("condition_heatmap" if _is_map(layers, dose) else "layer_profile")
    if found:
        return found
    return ["dose_response" if dose else "conditions"]


def _is_map(layers: pd.DataFrame, dose: str | None) -> bool:
    """Whether a number of the conditions has so many values that it is an axis, not lines."""
    return dose is not None and doses(layers, dose)[1].nunique() > MOST_SERIES


def _several_positions(rows: pd.DataFrame) -> bool:
    plain = rows[["run", "prompt", "condition", "position"]].astype(object)
    by = plain.groupby(["run", "prompt", "condition"])["position"]
    return bool((by.nunique() > 1).any())
