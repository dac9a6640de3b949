"""Runs experiments: a plan of trials through the model into the notebook.

A batch of trials is computed, then committed with its `done` marks in one transaction, so a run can
die at any instant and resumes with what is missing. Batches depend on the plan alone: a resumed run
computes the same numbers as one that was never interrupted.
"""

import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from mlux import display, registry
from mlux import params as parameters
from mlux.errors import ExperimentError, MluxError, RunError
from mlux.plan import (
    Plan,
    Prepared,
    assemble,
    device_name,
    load_model,
    prepare,
    require_checked,
)
from mlux.prompts import PromptSet
from mlux.provenance import environment
from mlux.registry import Experiment
from mlux.results import AXES, Artifact, RanTokens, Result, Values
from mlux.store import Store, default_location
from mlux.store.prompt_sets import find_prompt_set
from mlux.store.reader import load_run, resolve_run
from mlux.store.records import FinishedTrial, StoredRun
from mlux.store.writer import RunWriter, create_run

if TYPE_CHECKING:
    from mlux.engine import HookedModel
    from mlux.engine.screening import BadPrompts


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a run ended.

    Attributes:
        uid: Its name in the notebook.
        status: `done`, or `failed` if a trial failed.
        seconds: Time spent computing, this time.
    """

    uid: str
    experiment: str
    model: str
    status: str
    n_trials: int
    n_failed: int
    seconds: float

    def _repr_html_(self) -> str:
        """A table for notebooks, with what to type next."""
        facts = {
            "experiment": self.experiment,
            "model": self.model,
            "status": self.status,
            "trials": f"{self.n_trials - self.n_failed} of {self.n_trials}",
            "seconds": f"{self.seconds:.1f}",
            "draw it": f"charts.chart_for({self.uid!r})",
        }
        return display.facts(f"Run {self.uid}", facts)


def run_experiment(
    name: str,
    *,
    model: "str | Path | HookedModel",
    prompts: str | Path | PromptSet | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    tags: Mapping[str, str] | None = None,
    note: str | None = None,
    batch_size: int | None = None,
    memory: int | None = None,
    adapter: str | Path | None = None,
    bad_prompts: "BadPrompts" = "fail",
    db: str | Path | None = None,
    progress: bool = False,
) -> Run:
    """Runs an experiment on a model and stores every number.

    Args:
        name: The experiment.
        model: `demo`, a folder, a hub id, or a loaded model.
        prompts: A shipped set, a file, a set in the notebook, or a prompt set; by default the
            experiment's own.
        params: Option → value, as Python values or as text.
        seed: Seeds everything random.
        tags: To find the run by.
        note: What it is for.
        batch_size: Trials in one batch.
        memory: Bytes that sweeps may use for activations beside the model; by default 1 GiB.
        adapter: A folder with LoRA or DoRA weights.
        bad_prompts: What becomes of prompts that the experiment cannot use, or of whose answer it
            would score the first of several tokens: `fail` runs nothing, `drop` leaves them out,
            `keep` scores first tokens.
        db: The database; by default `$MLUX_DB`, or `mlux.db` in this folder.
        progress: Whether to show a progress bar on stderr.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     db = f"{folder}/mlux.db"
        ...     run_experiment("logit_lens", model="demo", prompts="facts:4", db=db).status
        'done'

    Raises:
        MluxError: If anything asked for is unknown or does not fit; nothing is then stored.
        KeyboardInterrupt: After Ctrl-C, once the current batch is stored.
    """
    prepared = prepare(
        name,
        model=model,
        prompts=_found(prompts, db),
        params=params,
        seed=seed,
        batch_size=batch_size,
        memory=memory,
        adapter=adapter,
        bad_prompts=bad_prompts,
    )
    with Store.open(db or default_location(), write=True) as store:
        require_checked(prepared, store)
        uid = create_run(store, prepared.spec(tags=tags or {}, note=note))
        return _execute(store, uid, prepared, range(len(prepared.trials)), progress)


def plan_experiment(
    name: str,
    *,
    model: "str | Path | HookedModel",
    prompts: str | Path | PromptSet | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    memory: int | None = None,
    adapter: str | Path | None = None,
    bad_prompts: "BadPrompts" = "fail",
    db: str | Path | None = None,
) -> Plan:
    """What `run_experiment` would do with the same arguments; nothing is run or stored.

    Raises:
        MluxError: As `run_experiment`.
    """
    return prepare(
        name,
        model=model,
        prompts=_found(prompts, db),
        params=params,
        seed=seed,
        batch_size=batch_size,
        memory=memory,
        adapter=adapter,
        bad_prompts=bad_prompts,
    ).plan()


def _found(prompts: str | Path | PromptSet | None, db: str | Path | None) -> PromptSet | None:
    """The prompts that a person named; those of a notebook too."""
    if prompts is None or isinstance(prompts, PromptSet):
        return prompts
    return find_prompt_set(str(prompts), str(db or default_location()))


def resume(reference: str, *, db: str | Path | None = None, progress: bool = False) -> Run:
    """Runs what is missing of a stored run: trials that are pending or failed.

    Args:
        reference: The run's uid, a unique prefix of it, `latest` or `latest:EXPERIMENT`.
        db: The database.
        progress: Whether to show a progress bar on stderr.

    Raises:
        RunError: If nothing is missing, another process is at work on it, or the model is no
            longer the one that it began with.
    """
    location = db or default_location()
    with Store.open(location) as store:
        stored = load_run(store, resolve_run(store, reference))
    if stored.status == "done":
        raise RunError(f"Run {stored.uid} is done; nothing is left to do.")
    prepared = _prepare_again(stored)
    with Store.open(location, write=True) as store:
        return _execute(store, stored.uid, prepared, stored.pending, progress)


def _prepare_again(stored: StoredRun) -> Prepared:
    experiment = registry.get(stored.experiment)
    if experiment.code_hash != stored.code_hash:
        raise RunError(
            f"The code of {stored.experiment} has changed since run {stored.uid} began; "
            "its missing trials would not be comparable. Start a new run."
        )
    model = load_model(stored.model.source, stored.model.adapter_source)
    if model.identity.content_hash != stored.model.content_hash:
        raise RunError(
            f"The model at {stored.model.source!r} is no longer the one that run {stored.uid} "
            "began with. Start a new run."
        )
    config = parameters.build(experiment.config, stored.params, experiment=experiment.name)
    return assemble(
        experiment,
        config,
        model,
        stored.prompts,
        seed=stored.seed,
        batch_size=stored.batch_size,
        memory=None,
        bad_prompts="keep",  # what was not to be there was left out when the run began
    )


def _execute(
    store: Store, uid: str, prepared: Prepared, pending: Sequence[int], progress: bool
) -> Run:
    from mlux.engine import memory

    model = prepared.model
    writer = RunWriter(store, uid, lambda token: str(model.tokenizer.decode([token])))
    writer.start(environment(device_name()))
    memory.reset_peak()
    begun, fires = time.perf_counter(), model.hook_fires
    failed: list[FinishedTrial] = []
    missing = len(pending)

    def finish(status: Any, error: str | None = None) -> None:
        writer.finish(
            status,
            error=error,
            peak_memory_bytes=memory.peak(),
            hook_fires=model.hook_fires - fires,
            seconds=time.perf_counter() - begun,
        )

    try:
        with _stop_after_batch() as stopping:
            memory.seed(prepared.seed)
            fitted = prepared.fit()
            writer.put_artifacts(list(map(_on_host, fitted.artifacts)))
            batches = _finished_batches(prepared, fitted.state, set(pending), uid, progress)
            for finished in batches:
                writer.write(finished)
                failed += [trial for trial in finished if trial.error is not None]
                missing -= len(finished)
                if stopping and missing:  # after the last batch there is nothing to stop
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        finish("crashed", "stopped by Ctrl-C")
        raise KeyboardInterrupt(
            f"Run {uid} is stopped. Go on with: mlux runs resume {uid}"
        ) from None
    except BaseException as error:
        finish("failed", f"{type(error).__name__}: {error}")
        raise
    finish("failed" if failed else "done", failed[0].error if failed else None)
    return Run(
        uid=uid,
        experiment=prepared.experiment.name,
        model=model.identity.name,
        status="failed" if failed else "done",
        n_trials=len(prepared.trials),
        n_failed=len(failed),
        seconds=time.perf_counter() - begun,
    )


@contextmanager
def _stop_after_batch() -> Iterator[list[int]]:
    """Ctrl-C once fills the list, for the loop to stop after its batch; twice stops at once."""
    stopping: list[int] = []
    if current_thread() is not main_thread():  # only the main thread may handle signals
        yield stopping
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stopping:
            raise KeyboardInterrupt
        stopping.append(number)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGINT, before)


def _finished_batches(
    prepared: Prepared, fitted: Any, pending: set[int], uid: str, progress: bool
) -> Iterator[list[FinishedTrial]]:
    """The missing trials, batch by batch, computed as they would have been in one go."""
    title = f"{prepared.experiment.name} on {prepared.model.identity.name}"
    total = len(prepared.trials)
    with tqdm(
        total=total,
        initial=total - len(pending),
        desc=f"{title} [{uid}]",
        unit="trial",
        disable=not progress,
        dynamic_ncols=True,
    ) as bar:
        for number, batch in enumerate(prepared.batches):
            missing = [trial for trial in batch if trial in pending]
            if missing:
                results = _run_batch(prepared, fitted, number, batch)
                yield [results[trial] for trial in missing]
                bar.update(len(missing))


def _run_batch(
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
        alone |= _run_batch(prepared, fitted, number, [trial])
    return alone


def _compute(
    prepared: Prepared, fitted: Any, number: int, batch: Sequence[int]
) -> dict[int, FinishedTrial]:
    from mlux.engine import memory

    memory.seed(prepared.batch_seed(number))
    prompts = prepared.prompt_batch(number, batch, fitted)
    results: dict[int, list[Result]] = {trial: [] for trial in batch}
    ran: dict[int, dict[str, Sequence[int]]] = {trial: {} for trial in batch}
    yielded = prepared.experiment.run(prepared.model, prepared.config, prompts)
    for item in _iterated(yielded, prepared.experiment.name):
        trial, result = _pair(item, prompts.trials, prepared.experiment.name)
        if isinstance(result, RanTokens):
            ran[trial.number][result.role] = result.token_ids
            continue
        _refuse_undeclared(result, prepared.experiment)
        _refuse_nan(result)
        results[trial.number].append(_on_host(result) if isinstance(result, Artifact) else result)
    finished = {}
    for trial in prompts:
        tokens = ran[trial.number] | {"clean": trial.encoded.ids}
        if trial.encoded.corrupted is not None:
            tokens["corrupted"] = trial.encoded.corrupted
        finished[trial.number] = FinishedTrial(
            trial=trial.number, results=results[trial.number], tokens=tokens
        )
    return finished


def _iterated(yielded: Any, name: str) -> Iterator[Any]:
    if not isinstance(yielded, Iterable):
        raise RunError(f"{name} returned {type(yielded).__name__}; it must yield (trial, result).")
    return iter(yielded)


def _pair(item: Any, trials: Sequence[Any], name: str) -> tuple[Any, Result]:
    match item:
        case (trial, result) if trial in trials and isinstance(result, Result):
            return trial, result
    raise RunError(f"{name} yielded {type(item).__name__}; expected (trial of the batch, result).")


def _on_host(artifact: Artifact) -> Artifact:
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


def _refuse_nan(result: Result) -> None:
    if isinstance(result, Values) and (row := result.first_nan()) is not None:
        places = dict(zip(AXES, row[:3], strict=True))
        where = [f"{name} {place}" for name, place in places.items() if place >= 0]
        at = f" at {', '.join(where)}" if where else ""
        raise RunError(f"{result.metric} is not a number{at}.")
