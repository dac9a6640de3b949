"""Runs experiments: planned and checked, then batch by batch into the notebook.

What works on a run is in `mlux.execution`; here are the ways to begin: a new run, the rest of one
that stopped, the same one again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from mlux import display, registry
from mlux import params as parameters
from mlux.errors import RunError
from mlux.execution import execute
from mlux.gate import sentence, split
from mlux.limits import check as check_range
from mlux.plan import Plan, Prepared, assemble, load_model, prepare, require_checked
from mlux.prompts import PromptSet, load
from mlux.store import Store, StoredRun, default_location, find_identical
from mlux.store.annotate import check_tags
from mlux.store.prompt_sets import find_prompt_set
from mlux.store.reader import load_run, resolve_run
from mlux.store.writer import create_run

if TYPE_CHECKING:
    from mlux.engine import HookedModel
    from mlux.engine.screening import BadPrompts

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")
_computing = RLock()


def _one_at_a_time(run: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Lets the runs of other threads wait: MLX crashes where two evaluate one model at once."""

    @wraps(run)
    def waiting(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        with _computing:
            return run(*args, **kwargs)

    return waiting


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a run ended.

    Attributes:
        uid: Its name in the notebook.
        is_new: Whether it was run now; False if `skip_existing` found it.
        identical: Finished runs that had computed the same before, the newest first.
        status: `done`, or `failed` if a trial failed.
        seconds: Time spent computing, this time.
        n_unsolved: Prompts of which the model does not do what the experiment takes for granted;
            None if nothing is taken for granted.
        keep_unsolved: Whether these were computed all the same.
    """

    uid: str
    experiment: str
    model: str
    status: str
    n_trials: int
    n_failed: int
    seconds: float
    n_prompts: int = 0
    n_unsolved: int | None = None
    keep_unsolved: bool = False
    is_new: bool = True
    identical: tuple[str, ...] = ()

    @property
    def gate_sentence(self) -> str | None:
        """What a person has to know of the prompts that are not solved; None if all are."""
        return sentence(self.n_unsolved or 0, self.n_prompts, kept=self.keep_unsolved)

    def _repr_html_(self) -> str:
        """A table for notebooks, with what to type next."""
        facts = {
            "experiment": self.experiment,
            "model": self.model,
            "status": self.status,
            "trials": f"{self.n_trials - self.n_failed} of {self.n_trials}",
            "baseline": self.gate_sentence,
            "seconds": f"{self.seconds:.1f}",
            "draw it": f"charts.chart_for({self.uid!r})",
        }
        return display.facts(f"Run {self.uid}", facts)


@_one_at_a_time
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
    dtype: str | None = None,
    bad_prompts: "BadPrompts" = "fail",
    keep_unsolved: bool = False,
    min_gap: float | None = None,
    db: str | Path | None = None,
    max_failures: int | None = None,
    skip_existing: bool = False,
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
        adapter: LoRA or DoRA weights of mlx-lm or PEFT: a folder or a hub id.
        dtype: float32, float16 or bfloat16; by default float32 on a CPU, where half precision has
            no fast kernels, and what the weights are stored in on a GPU. A resume, a rerun and a
            verification compute in the same.
        bad_prompts: What becomes of prompts that the experiment cannot use, or of whose answer it
            would score the first of several tokens: `fail` runs nothing, `drop` leaves them out,
            `keep` scores first tokens.
        keep_unsolved: Whether prompts of which the model does not do what the experiment takes for
            granted are computed all the same (see `mlux.gate`).
        min_gap: Logits between a prompt and its corrupted form below which no effect is
            normalised; by default 1.
        db: The database; by default `$MLUX_DB`, or `mlux.db` in this folder.
        max_failures: Stop when more trials than this have failed; by default a trial that fails
            is marked and the run goes on.
        skip_existing: If the identical run is there and done, return it and run nothing.
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
    check_tags(tags or {}, note)
    check_range("max_failures", max_failures)
    prepared = prepare(
        name,
        model=model,
        prompts=_found(prompts, db),
        params=params,
        seed=seed,
        batch_size=batch_size,
        memory=memory,
        adapter=adapter,
        dtype=dtype,
        bad_prompts=bad_prompts,
        keep_unsolved=keep_unsolved,
        min_gap=min_gap,
    )
    with Store.open(db or default_location(), write=True) as store:
        require_checked(prepared, store)
        spec = prepared.spec(tags=tags or {}, note=note)
        known = tuple(find_identical(store, spec))
        if skip_existing and known:
            return _ended(load_run(store, known[0]), prepared)
        uid = create_run(store, spec)
        every = range(len(prepared.trials))
        run = _work(store, uid, prepared, every, max_failures, progress)
        return replace(run, identical=known)


@_one_at_a_time
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
    dtype: str | None = None,
    bad_prompts: "BadPrompts" = "fail",
    keep_unsolved: bool = False,
    min_gap: float | None = None,
    db: str | Path | None = None,
    timed: bool = False,
) -> Plan:
    """What `run_experiment` would do with the same arguments; nothing is run or stored.

    With `timed`, one batch runs through the model, to say how long all would take, and every prompt
    once, to say how many it solves.

    Raises:
        MluxError: As `run_experiment`.
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
        dtype=dtype,
        bad_prompts=bad_prompts,
        keep_unsolved=keep_unsolved,
        min_gap=min_gap,
    )
    location = db or default_location()
    if "://" in str(location) or Path(location).exists():
        with Store.open(location) as store:
            require_checked(prepared, store)
    return prepared.plan(timed=timed)


def _found(prompts: Any, db: str | Path | None) -> PromptSet | None:
    """The prompts that a person named; those of a notebook too."""
    if prompts is None or isinstance(prompts, PromptSet):
        return prompts
    if not isinstance(prompts, str | Path):
        return load(prompts)  # which says what it expects
    return find_prompt_set(str(prompts), str(db or default_location()))


@_one_at_a_time
def resume(
    reference: str,
    *,
    db: str | Path | None = None,
    max_failures: int | None = None,
    progress: bool = False,
) -> Run:
    """Runs what is missing of a stored run: trials that are pending or failed.

    If another process works on it, this one joins and takes trials that nobody has taken.

    Args:
        reference: The run's uid, a unique prefix of it, `latest` or `latest:EXPERIMENT`.
        db: The database.
        max_failures: Stop when more trials than this have failed.
        progress: Whether to show a progress bar on stderr.

    Raises:
        RunError: If nothing is missing, or the model or the code is no longer what it began with.
    """
    check_range("max_failures", max_failures)
    location = db or default_location()
    with Store.open(location) as store:
        stored = load_run(store, resolve_run(store, reference))
    if stored.status == "done":
        raise RunError(f"Run {stored.uid} is done; nothing is left to do.")
    prepared = prepare_again(stored)
    if prepared.experiment.code_hash != stored.code_hash:
        raise RunError(
            f"The code of {stored.experiment} has changed since run {stored.uid} began; "
            "its missing trials would not be comparable. Start a new run."
        )
    if prepared.model.identity.content_hash != stored.model.content_hash:
        raise RunError(
            f"The model at {stored.model.source!r} is no longer the one that run {stored.uid} "
            "began with. Start a new run."
        )
    with Store.open(location, write=True) as store:
        return _work(store, stored.uid, prepared, stored.pending, max_failures, progress)


@_one_at_a_time
def rerun(
    reference: str,
    *,
    db: str | Path | None = None,
    max_failures: int | None = None,
    progress: bool = False,
) -> Run:
    """Starts a new run from a stored one: the same experiment, prompts, options and seed.

    Code and model are those of today; `mlux runs show --diff` says what has changed, and
    `mlux runs verify` whether the numbers have.

    Args:
        reference: The run, as in `resume`.
        db: The database.
        max_failures: Stop when more trials than this have failed.
        progress: Whether to show a progress bar on stderr.

    Raises:
        MluxError: If the experiment or the model is no longer there.
    """
    check_range("max_failures", max_failures)
    location = db or default_location()
    with Store.open(location) as store:
        stored = load_run(store, resolve_run(store, reference))
    prepared = prepare_again(stored)
    with Store.open(location, write=True) as store:
        require_checked(prepared, store)
        spec = prepared.spec(tags=stored.tags, note=stored.note)
        uid = create_run(store, replace(spec, rerun_of=stored.uid))
        return _work(store, uid, prepared, range(len(prepared.trials)), max_failures, progress)


def prepare_again(stored: StoredRun) -> Prepared:
    """A stored run's plan, with the code and the model of today.

    Raises:
        MluxError: If the experiment or the model is no longer there, or its options have changed.
    """
    experiment = registry.get(stored.experiment)
    from mlux.engine import memory

    source, adapter, dtype = stored.model.source, stored.model.adapter_source, stored.model.dtype
    # On a GPU the default leaves weights of several dtypes as they are, which no one dtype does.
    model = load_model(source, adapter, dtype if memory.on_cpu() else None)
    if model.config["dtype"] != dtype:
        model = load_model(source, adapter, dtype)
    params, gate = split(stored.params) if experiment.gate else (stored.params, None)
    config = parameters.build(experiment.config, params, experiment=experiment.name)
    return assemble(
        experiment,
        config,
        model,
        stored.prompts,
        seed=stored.seed,
        batch_size=stored.batch_size,
        bad_prompts="keep",  # what was not to be there was left out when the run began
        memory=stored.memory_bytes,
        gate=gate,
    )


def _work(
    store: Store,
    uid: str,
    prepared: Prepared,
    pending: Sequence[int],
    max_failures: int | None,
    progress: bool,
) -> Run:
    ended = execute(
        store, uid, prepared, pending=pending, max_failures=max_failures, progress=progress
    )
    return Run(
        uid=uid,
        experiment=prepared.experiment.name,
        model=prepared.model.identity.name,
        status=ended.status,
        n_trials=len(prepared.trials),
        n_failed=len(ended.failed),
        seconds=ended.seconds,
        n_prompts=len(prepared.prompts.prompts),
        n_unsolved=ended.n_unsolved,
        keep_unsolved=prepared.gate.keep_unsolved,
    )


def _ended(stored: StoredRun, prepared: Prepared) -> Run:
    return Run(
        uid=stored.uid,
        experiment=stored.experiment,
        model=prepared.model.identity.name,
        status=stored.status,
        n_trials=len(stored.trials),
        n_failed=stored.counts["failed"],
        seconds=stored.seconds or 0.0,
        n_prompts=len(stored.prompts.prompts),
        n_unsolved=stored.n_unsolved if prepared.experiment.gate else None,
        keep_unsolved=prepared.gate.keep_unsolved,
        is_new=False,
    )
