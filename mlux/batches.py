"""Computing a batch of trials: what an experiment yields, checked, as records for the notebook.

A batch is computed as it stands in the plan, whoever needs which of its trials: the numbers of a
row may depend, in their last bits, on the rows beside it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from mlux import gate
from mlux.errors import ExperimentError, MluxError, RunError
from mlux.plan import Prepared
from mlux.registry import Experiment
from mlux.results import AXES, Artifact, RanTokens, Result, Values
from mlux.store.records import FinishedTrial


def run_batch(
    prepared: Prepared, fitted: Any, number: int, batch: Sequence[int]
) -> dict[int, FinishedTrial]:
    """Computes a batch; if it fails, each of its trials alone, so that only the culprit fails."""
    try:
        return _compute(prepared, fitted, number, batch)
    except ExperimentError:
        raise  # a fault of the code is the same in every trial
    except MluxError as error:
        if len(batch) == 1:
            return {batch[0]: FinishedTrial(trial=batch[0], results=[], error=str(error))}
    alone: dict[int, FinishedTrial] = {}
    for trial in batch:
        alone |= run_batch(prepared, fitted, number, [trial])
    return alone


def _compute(
    prepared: Prepared, fitted: Any, number: int, batch: Sequence[int]
) -> dict[int, FinishedTrial]:
    from mlux.engine import memory

    memory.seed(prepared.batch_seed(number))
    results: dict[int, list[Result]] = {trial: _baseline(prepared, trial) for trial in batch}
    ran: dict[int, dict[str, Sequence[int]]] = {trial: {} for trial in batch}
    counted = prepared.counted
    taken = [trial for trial in batch if counted[prepared.trials[trial].prompt]]
    prompts = prepared.prompt_batch(number, taken, fitted) if taken else ()
    yielded = prepared.experiment.run(prepared.model, prepared.config, prompts) if taken else ()
    for item in _iterated(yielded, prepared.experiment.name):
        trial, result = _pair(item, list(prompts), prepared.experiment.name)
        if isinstance(result, RanTokens):
            ran[trial.number][result.role] = result.token_ids
            continue
        _refuse_undeclared(result, prepared.experiment)
        _refuse_infinite(result)
        if isinstance(result, Artifact):
            result = on_host_arrays(result)
        results[trial.number].append(result)
    finished = {}
    for trial_number in batch:
        encoded = prepared.encoded[prepared.trials[trial_number].prompt]
        tokens = ran[trial_number] | {"clean": encoded.ids}
        if encoded.corrupted is not None:
            tokens["corrupted"] = encoded.corrupted
        finished[trial_number] = FinishedTrial(
            trial=trial_number,
            results=results[trial_number],
            tokens=tokens,
            unsolved=_unsolved(prepared, trial_number),
        )
    return finished


def _baseline(prepared: Prepared, trial: int) -> list[Result]:
    """What the gate found of a trial's prompt, to be stored with it."""
    if prepared.baselines is None:
        return []
    found = prepared.baselines[prepared.trials[trial].prompt]
    values = {gate.GAP.name: found.gap, gate.SOLVED.name: float(found.unsolved is None)}
    results: list[Result] = [Values(metric=name, values=value) for name, value in values.items()]
    for result in results:
        _refuse_infinite(result)
    return results


def _unsolved(prepared: Prepared, trial: int) -> str | None:
    if prepared.baselines is None:
        return None
    return prepared.baselines[prepared.trials[trial].prompt].unsolved


def _iterated(yielded: Any, name: str) -> Iterator[Any]:
    if not isinstance(yielded, Iterable):
        raise RunError(f"{name} returned {type(yielded).__name__}; it must yield (trial, result).")
    return iter(yielded)


def _pair(item: Any, trials: Sequence[Any], name: str) -> tuple[Any, Result]:
    match item:
        case (trial, result) if trial in trials and isinstance(result, Result):
            return trial, result
    raise RunError(f"{name} yielded {type(item).__name__}; expected (trial of the batch, result).")


def on_host_arrays(artifact: Artifact) -> Artifact:
    """The artifact with NumPy arrays, which the store can write."""
    from mlux.engine.arrays import on_host

    arrays = {name: on_host(array) for name, array in artifact.arrays.items()}
    return replace(artifact, arrays=arrays)


def _refuse_undeclared(result: Result, experiment: Experiment) -> None:
    declared = [metric.name for metric in experiment.metrics]
    if isinstance(result, Values) and result.metric not in declared:
        close = get_close_matches(result.metric, declared, n=1)
        meant = f"Did you mean {close[0]!r}? Else add" if close else "Add"
        raise ExperimentError(
            f"{experiment.place}: {experiment.name} yields the metric {result.metric!r}, which it "
            f"does not declare. {meant} it to the metrics of @experiment."
        )


def _refuse_infinite(result: Result) -> None:
    if isinstance(result, Values) and (row := result.first_infinite()) is not None:
        places = dict(zip(AXES, row[:3], strict=True))
        where = [f"{name} {place}" for name, place in places.items() if place >= 0]
        at = f" at {', '.join(where)}" if where else ""
        raise RunError(f"{result.metric} is not a finite number{at}.")
