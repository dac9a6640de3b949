"""From names and options to a run that is ready to start: everything checked, nothing run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlux import params as parameters
from mlux import prompts as prompt_sets
from mlux import registry
from mlux.errors import ModelError, ParameterError
from mlux.gate import METRICS, MIN_GAP, Baseline, GateOptions, sentence
from mlux.limits import check as check_range
from mlux.prompts import PromptSet
from mlux.provenance import environment
from mlux.registry import Cost, Experiment
from mlux.results import Fitted
from mlux.steps import Steps
from mlux.store.checks import failed_checks
from mlux.store.records import RunSpec, TrialSpec
from mlux.store.session import Store

if TYPE_CHECKING:
    from mlux.engine import HookedModel
    from mlux.engine.screening import BadPrompts
    from mlux.engine.trials import EncodedPrompt, PromptBatch
    from mlux.methods.speed import Speed

BATCH_SIZE = 16
"""Trials in one batch where nobody says otherwise."""

BYTES_PER_VALUE = 26
"""What one stored number takes in the database, indexes included."""


SECONDS_A_VALUE, SECONDS_A_BATCH = 1e-5, 0.02
"""What it takes to store a number, and to claim and commit a batch."""
SECONDS_A_WORD = 2e-5
"""What it takes to read a token of the vocabulary, once a run, so that it can be told."""
LENS = 2.3
"""What a lens does with the logits of a position, as a multiple of making them."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do.

    Attributes:
        forward_passes: Forward passes over one prompt, or their worth.
        bytes: What its results will take in the database.
        seconds: What all of it will take on this machine, by how fast the model runs now: passes
            through the blocks, logits, generated tokens, what is stored; None if untimed.
        n_unknown: Prompts with words that the model's tokenizer does not know.
        n_dropped: Prompts that were left out, since the experiment cannot use them.
        n_long_answers: Prompts with an answer of several tokens, whose first is scored.
        dtype: What the model computes in.
        stored_dtype: What its weights are stored in.
        unread: Settings of config.json that mlx-lm does not read.
        adapter: What became of an adapter of PEFT.
        n_unsolved: Prompts of which the model does not do what the experiment takes for granted;
            None if untimed, or nothing is taken for granted.
        keep_unsolved: Whether these are computed all the same.
    """

    experiment: str
    model: str
    prompt_set: str
    n_prompts: int
    n_conditions: int
    n_trials: int
    n_batches: int
    forward_passes: int
    bytes: int
    seconds: float | None
    n_unknown: int
    n_dropped: int
    n_long_answers: int
    dtype: str
    stored_dtype: str
    unread: tuple[str, ...] = ()
    adapter: str = ""
    n_unsolved: int | None = None
    keep_unsolved: bool = False

    @property
    def gate_sentence(self) -> str | None:
        """What a person has to know of the prompts that are not solved; None if all are."""
        return sentence(self.n_unsolved or 0, self.n_prompts, kept=self.keep_unsolved)


@dataclass(frozen=True, kw_only=True)
class Work:
    """A part of a run and what it costs.

    Attributes:
        cost: In passes, logits and tokens.
        n_tokens: Of a prompt.
        rows: Prompts that run together, where the cost does not say so.
    """

    cost: Cost
    n_tokens: float
    rows: float

    def seconds(self, speed: "Speed") -> float:
        """What it takes at this speed."""
        cost, rows = self.cost, self.cost.rows or self.rows
        a_pass = speed.call / rows + speed.token * self.n_tokens
        a_token = speed.call / self.rows + speed.token + speed.position
        return (
            cost.forward_passes * a_pass
            + (cost.logits + LENS * cost.looked_at) * speed.position
            + cost.generated * a_token
            + cost.values * SECONDS_A_VALUE
            + cost.seconds
        )


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An experiment with all that it needs, on a loaded model.

    Attributes:
        encoded: Each prompt of the set in the model's token ids.
        dropped: Why each prompt that was left out is not there.
        n_long_answers: Prompts with an answer of several tokens, whose first is scored.
        trials: The trials in their order; a trial's number is its place here.
        batches: The numbers of the trials that run together. They depend on the plan alone, so
            that a resumed run computes every number in the batch it would have had.
        gate: What a person asks of the baseline gate.
        steps: What keeps what is learned before the first trial.
    """

    experiment: Experiment
    config: Any
    model: "HookedModel"
    prompts: PromptSet
    encoded: tuple["EncodedPrompt", ...]
    trials: tuple[TrialSpec, ...]
    batches: tuple[tuple[int, ...], ...]
    batch_size: int
    seed: int
    memory: int
    dropped: tuple[str, ...] = ()
    n_long_answers: int = 0
    gate: GateOptions = field(default_factory=GateOptions)
    steps: Steps = field(default_factory=Steps)

    @cached_property
    def baselines(self) -> tuple[Baseline, ...] | None:
        """What the unedited model makes of each prompt; None if nothing is taken for granted."""
        if self.experiment.gate is None:
            return None
        from mlux.methods.baseline import baselines

        return baselines(
            self.model,
            self.encoded,
            self.experiment.gate,
            min_gap=self.gate.min_gap,
            memory=self.memory,
            steps=self.steps,
        )

    @property
    def counted(self) -> tuple[bool, ...]:
        """Whether each prompt is computed: it is solved, or kept all the same."""
        if self.baselines is None or self.gate.keep_unsolved:
            return (True,) * len(self.encoded)
        return tuple(baseline.unsolved is None for baseline in self.baselines)

    @property
    def n_unsolved(self) -> int | None:
        """How many prompts are not solved; None if nothing is taken for granted."""
        found = self.baselines
        return None if found is None else sum(one.unsolved is not None for one in found)

    def fit(self) -> Fitted:
        """What the experiment learns from all prompts before its first trial."""
        if self.experiment.fit is None:
            return Fitted(state=None)
        taken = signature(self.experiment.fit).parameters
        more: dict[str, Any] = {"memory": self.memory} if "memory" in taken else {}
        if "solved" in taken:
            more["solved"] = self.counted
        if "steps" in taken:
            more["steps"] = self.steps
        return self.experiment.fit(self.model, self.config, self.encoded, self.seed, **more)

    def batch_seed(self, number: int) -> int:
        """The seed of a batch, so that what is drawn does not depend on what ran before."""
        return self.seed * 1_000_003 + number

    def prompt_batch(self, number: int, trials: Sequence[int], fitted: Any) -> "PromptBatch":
        """What the experiment is handed for these trials of a batch."""
        from mlux.engine.trials import PromptBatch, Trial

        rows = [
            Trial(number=trial, encoded=self.encoded[self.trials[trial].prompt]) for trial in trials
        ]
        return PromptBatch(
            rows,
            dict(self.trials[trials[0]].condition),
            fitted=fitted,
            seed=self.batch_seed(number),
            memory=self.memory,
        )

    def plan(self, *, timed: bool = False) -> Plan:
        """What it would do, in numbers.

        With `timed`, every prompt runs once, as it is, to say how many are solved, and three short
        passes say how fast the model is; prompts that are left out are not counted then.
        """
        works = list(self.works(self.counted if timed else None))
        passes = sum(work.cost.forward_passes for work in works)
        values = sum(work.cost.values for work in works)
        if self.experiment.gate:
            values += len(METRICS) * len(self.trials)
        seconds = self._seconds(works) if timed else None
        return Plan(
            experiment=self.experiment.name,
            model=self.model.identity.name,
            prompt_set=self.prompts.name,
            n_prompts=len(self.prompts.prompts),
            n_conditions=len(self.trials) // len(self.prompts.prompts),
            n_trials=len(self.trials),
            n_batches=len(self.batches),
            forward_passes=round(passes),
            bytes=BYTES_PER_VALUE * values,
            seconds=seconds,
            n_unknown=sum(self._has_unknown(encoded) for encoded in self.encoded),
            n_dropped=len(self.dropped),
            n_long_answers=self.n_long_answers,
            dtype=self.model.config["dtype"],
            stored_dtype=self.model.stored_dtype,
            unread=self.model.unread_settings,
            adapter=self.model.adapter_note,
            n_unsolved=self.n_unsolved if timed else None,
            keep_unsolved=self.gate.keep_unsolved,
        )

    def works(self, counted: Sequence[bool] | None = None) -> "Iterator[Work]":
        """Everything that there is to compute: the gate, the fit, then trial by trial.

        Args:
            counted: Whether each prompt is; by default all are.
        """
        lengths = [len(encoded.ids) for encoded in self.encoded]
        n_prompts, mean = len(lengths), sum(lengths) / len(lengths)
        rows = sum(map(len, self.batches)) / len(self.batches)
        if self.experiment.gate:
            passes = n_prompts * (2 if self.experiment.gate == "pair" else 1)
            yield Work(cost=Cost(forward_passes=passes), n_tokens=mean, rows=rows)
        if self.experiment.fit is not None:
            cost = self.experiment.fit_cost(self.config, self.model.config, n_prompts, mean)
            yield Work(cost=cost, n_tokens=mean, rows=min(n_prompts, self.batch_size))
        for batch in self.batches:
            for trial in (self.trials[number] for number in batch):
                if counted is None or counted[trial.prompt]:
                    n = lengths[trial.prompt]
                    cost = self.experiment.cost(self.config, self.model.config, trial.condition, n)
                    yield Work(cost=cost, n_tokens=n, rows=len(batch))

    def _seconds(self, works: "Sequence[Work]") -> float:
        """What it will take, by how fast the model runs a prompt of middle length."""
        from mlux.methods.speed import measure_speed

        in_order = sorted(self.encoded, key=lambda encoded: len(encoded.ids))
        speed = measure_speed(self.model, in_order[len(in_order) // 2].ids)
        stored = SECONDS_A_BATCH * len(self.batches)
        stored += SECONDS_A_WORD * int(self.model.config["vocab_size"])
        return stored + sum(work.seconds(speed) for work in works)

    def _noted(self, note: str | None) -> str | None:
        """The note of a person, and how many prompts were left out."""
        if not self.dropped:
            return note
        total = len(self.dropped) + len(self.encoded)
        left_out = f"{len(self.dropped)} of {total} prompts dropped"
        return left_out if note is None else f"{note} ({left_out})"

    def _has_unknown(self, encoded: "EncodedPrompt") -> bool:
        unknown = getattr(self.model.tokenizer, "unk_token_id", None)
        return unknown is not None and unknown in (*encoded.ids, *(encoded.corrupted or ()))

    def spec(self, *, tags: Mapping[str, str], note: str | None) -> RunSpec:
        """What the notebook files of the run before it starts."""
        experiment = self.experiment
        return RunSpec(
            experiment=experiment.name,
            description=experiment.description,
            paper=experiment.paper,
            code_hash=experiment.code_hash,
            metrics=experiment.metrics,
            model=self.model.identity,
            prompts=self.prompts,
            trials=self.trials,
            params=asdict(self.config) | (asdict(self.gate) if experiment.gate else {}),
            seed=self.seed,
            batch_size=self.batch_size,
            memory_bytes=self.memory,
            tags=tags,
            note=self._noted(note),
            unread=self.model.unread_settings,
            environment=environment(device_name()),
        )


def device_name() -> str:
    """The device that MLX computes on, as in `Device(cpu, 0)`."""
    from mlux.engine import memory

    return memory.device()


def prepare(
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
) -> Prepared:
    """Checks and loads everything that a run needs; see `mlux.run_experiment` for the arguments.

    Raises:
        MluxError: If any of it is unknown, does not fit, or cannot be loaded.
    """
    experiment = registry.get(name)
    config = parameters.build(experiment.config, params or {}, experiment=name)
    if seed is None:
        raise ParameterError("seed is None; leave it out for 0.")
    for option, value in {"seed": seed, "batch_size": batch_size, "memory": memory}.items():
        check_range(option, value)
    least = MIN_GAP if min_gap is None else min_gap
    gate = GateOptions(min_gap=least, keep_unsolved=keep_unsolved)
    given = _given_prompts(experiment, prompts)
    if isinstance(model, str | Path):
        model = load_model(str(model), None if adapter is None else str(adapter), dtype)
    elif dtype not in (None, model.config["dtype"]):
        raise ParameterError(
            f"dtype is {dtype}, but the model that was given computes in {model.config['dtype']}; "
            "load it with dtype= instead."
        )
    prompt_set = given or _made_prompts(experiment, model, config, seed)
    return assemble(
        experiment,
        config,
        model,
        prompt_set,
        seed=seed,
        batch_size=batch_size,
        memory=memory,
        bad_prompts=bad_prompts,
        gate=gate,
    )


def load_model(reference: str, adapter: str | None, dtype: str | None = None) -> "HookedModel":
    """The model of this name; the last one stays loaded, since runs come in rows.

    Another one is let go before this one is loaded, so that two are never in memory together.
    """
    from mlux.engine import HookedModel, memory

    if dtype is None and memory.on_cpu():
        dtype = "float32"  # what it would be loaded in anyway; so it is one model by either name
    key = (reference, adapter, dtype, _state(reference), _state(adapter))
    if key not in _loaded:
        if _loaded:
            _loaded.clear()
            memory.release()
        _loaded[key] = HookedModel.from_pretrained(reference, adapter_path=adapter, dtype=dtype)
    return _loaded[key]


_loaded: "dict[object, HookedModel]" = {}
"""The model that was asked for last, by what it was loaded from."""


def _state(folder: str | None) -> object:
    """What changes when the files of a folder do: their names, sizes and times."""
    if folder is None or not Path(folder).is_dir():
        return None
    found = ((path.name, path.stat()) for path in sorted(Path(folder).iterdir()))
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in found)


def assemble(
    experiment: Experiment,
    config: Any,
    model: "HookedModel",
    prompts: PromptSet,
    *,
    seed: int,
    batch_size: int | None,
    memory: int | None,
    bad_prompts: "BadPrompts" = "fail",
    gate: GateOptions | None = None,
) -> Prepared:
    """The trials and batches of an experiment, from parts that are already checked.

    Raises:
        PromptError: If a prompt lacks a role or cannot be run on this model.
        ModelError: If the model lacks a kind of site that the experiment needs.
        MluxError: If the experiment's own check finds that these do not fit together.
    """
    from mlux.engine.screening import screen
    from mlux.engine.threads import ready
    from mlux.engine.trials import MEMORY

    ready()
    batch_size = batch_size or BATCH_SIZE
    if bad_prompts != "drop":  # a missing role is told before a model is looked into
        prompts.require(experiment.roles, experiment.name)
    _require_sites(experiment, config, model)
    screened = screen(
        model,
        prompts,
        experiment=experiment.name,
        roles=experiment.roles,
        aligned=experiment.aligned,
        bad_prompts=bad_prompts,
    )
    prompts, encoded = screened.prompts, screened.encoded
    experiment.check(model, config, encoded, seed)
    trials = tuple(
        TrialSpec(prompt=index, condition=dict(condition))
        for condition in experiment.conditions(config, model.config)
        for index in range(len(prompts.prompts))
    )
    return Prepared(
        experiment=experiment,
        config=config,
        model=model,
        prompts=prompts,
        encoded=encoded,
        trials=trials,
        batches=_batches(trials, [len(e.ids) for e in encoded], batch_size),
        batch_size=batch_size,
        seed=seed,
        memory=memory or MEMORY,
        dropped=screened.dropped,
        n_long_answers=screened.n_long_answers,
        gate=gate or GateOptions(),
    )


def _require_sites(experiment: Experiment, config: Any, model: "HookedModel") -> None:
    """Raises ModelError if no block has a site that the experiment needs; hybrids have some.

    `sum` is needed of every block: one that is no sum breaks the sum over all of them.
    """
    anatomy = model.anatomy
    for site in experiment.sites(config):
        lacking = [i for i, block in enumerate(anatomy.blocks) if site in block.lacks]
        too_many = len(lacking) == len(anatomy.blocks) or (site == "sum" and bool(lacking))
        reason = anatomy.lacks.get(site)
        where = ""
        if reason is None and too_many:
            block = anatomy.blocks[lacking[0]]
            reason, where = block.lacks[site], f" (block {lacking[0]}, {block.path!r})"
        if reason:
            raise ModelError(
                f"{experiment.name} needs {site!r}, which this model lacks{where}: {reason}."
            )


def require_checked(prepared: Prepared, store: Store) -> None:
    """Stops a run whose model failed its self-test at what the experiment needs.

    Raises:
        ModelError: If the latest `mlux models check` of the model failed there.
    """
    failed = failed_checks(store, prepared.model.identity.content_hash)
    needed = {
        site: failed[site]
        for site in (*prepared.experiment.sites(prepared.config), "hooks")
        if site in failed
    }
    for site, reason in needed.items():
        raise ModelError(
            f"{prepared.experiment.name} needs {site!r}, where the self-test of "
            f"{prepared.model.identity.name} failed: {reason}. See: mlux models check"
        )


def _given_prompts(
    experiment: Experiment, prompts: str | Path | PromptSet | None
) -> PromptSet | None:
    if isinstance(prompts, PromptSet):
        prompt_sets.check(prompts)
        return prompts
    if prompts is not None:
        return prompt_sets.load(prompts)
    return prompt_sets.load(experiment.prompts) if isinstance(experiment.prompts, str) else None


def _made_prompts(
    experiment: Experiment, model: "HookedModel", config: Any, seed: int
) -> PromptSet:
    assert callable(experiment.prompts)
    made = tuple(experiment.prompts(model, config, seed))
    return PromptSet(name=f"{experiment.name} seed {seed}", prompts=made)


def _batches(
    trials: Sequence[TrialSpec], lengths: Sequence[int], batch_size: int
) -> tuple[tuple[int, ...], ...]:
    """Trials of one condition and one length together, so that nothing is padded for long."""
    buckets: dict[tuple[tuple[str, str], ...], dict[int, list[int]]] = {}
    for number, trial in enumerate(trials):
        condition = tuple(sorted(trial.condition.items()))
        buckets.setdefault(condition, {}).setdefault(lengths[trial.prompt], []).append(number)
    return tuple(
        tuple(bucket[start : start + batch_size])
        for by_length in buckets.values()
        for _, bucket in sorted(by_length.items())
        for start in range(0, len(bucket), batch_size)
    )
