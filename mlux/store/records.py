"""What goes into the notebook and what comes out of it: frozen records of plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mlux import display, gate
from mlux.prompts import PromptSet
from mlux.provenance import Environment, ModelIdentity
from mlux.results import Metric, Result

Scalar = str | int | float | bool | None
Param = Scalar | Sequence[Scalar]
"""What JSON can say of an option."""

EndStatus = Literal["done", "failed", "crashed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSpec:
    """One prompt under one condition.

    Attributes:
        prompt: The prompt's index in the run's prompt set.
        condition: What it is run under, as in `{"site": "head"}`. With the reserved key
            `control`, as in `{"site": "head", "control": "random"}`, it is held against the
            condition of the same other values without that key.
    """

    prompt: int
    condition: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """Everything that is known of a run before it starts.

    Attributes:
        experiment: The experiment's name.
        description: Its docstring's first line.
        paper: Whose definition it follows.
        code_hash: SHA-256 of its file.
        metrics: What its numbers mean, in the order in which the experiment declares them.
        trials: What is to be done, in this order; a trial's number is its place here.
        params: The experiment's options.
        batch_size: Trials in one forward pass; None if chosen by the runner.
        memory_bytes: The memory that its sweeps may use; None if they choose it themselves.
        rerun_of: The uid of the run that it repeats, if it does.
        unread: Settings of the model's config.json that mlx-lm does not read.
    """

    experiment: str
    description: str
    paper: str
    code_hash: str
    metrics: tuple[Metric, ...]
    model: ModelIdentity
    prompts: PromptSet
    trials: tuple[TrialSpec, ...]
    params: Mapping[str, Param]
    seed: int
    batch_size: int | None
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None
    environment: Environment
    memory_bytes: int | None = None
    rerun_of: str | None = None
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedTrial:
    """What came out of one trial.

    Attributes:
        trial: Its number in the run.
        results: What the experiment yielded for it.
        tokens: Role (`clean`, `corrupted`) → the exact ids that were run.
        error: Why it failed; its results are then not stored.
        unsolved: Why its prompt did not pass the baseline gate; None if it did, or there is none.
    """

    trial: int
    results: Sequence[Result]
    tokens: Mapping[str, Sequence[int]] = field(default_factory=dict)
    error: str | None = None
    unsolved: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """What happened to a run, and when."""

    at: str
    kind: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRun:
    """A run as the notebook has it: everything needed to show it or to resume it.

    Attributes:
        uid: Its name.
        metrics: What its numbers mean, in the order in which the experiment declared them.
        model_label: The model's name, made unique where two models share it.
        pending: The numbers of the trials that are not done, failed ones included.
        failures: Number of a failed trial → why.
        unsolved: Number of a trial that did not pass the baseline gate → why.
        counts: How many trials are `done`, `failed` and `pending`.
        seconds: Time spent computing, over all resumes.
        versions: Package → version; the same as `environment.versions`.
    """

    uid: str
    experiment: str
    description: str
    paper: str
    code_hash: str
    status: str
    error: str | None
    metrics: tuple[Metric, ...]
    model: ModelIdentity
    model_label: str
    prompts: PromptSet
    trials: tuple[TrialSpec, ...]
    pending: tuple[int, ...]
    failures: Mapping[int, str]
    unsolved: Mapping[int, str]
    counts: Mapping[str, int]
    params: Mapping[str, Param]
    seed: int
    batch_size: int | None
    tags: Mapping[str, str]
    note: str | None
    created_at: str
    started_at: str | None
    heartbeat_at: str | None
    finished_at: str | None
    deleted_at: str | None
    seconds: float | None
    peak_memory_bytes: int | None
    hook_fires: int | None
    environment: Environment
    events: tuple[Event, ...]
    memory_bytes: int | None = None
    rerun_of: str | None = None

    @property
    def n_unsolved(self) -> int:
        """How many prompts did not pass the baseline gate."""
        return len({self.trials[trial].prompt for trial in self.unsolved})

    @property
    def gate_sentence(self) -> str | None:
        """What a person has to know of the prompts that are not solved; None if all are."""
        kept = bool(self.params.get("keep_unsolved"))
        return gate.sentence(self.n_unsolved, len(self.prompts.prompts), kept=kept)

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of the packages that the run used."""
        return self.environment.versions

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        facts = {
            "experiment": self.experiment,
            "model": self.model_label,
            "prompts": f"{self.prompts.name}, {len(self.prompts.prompts)}",
            "status": self.status,
            "trials": f"{self.counts['done']} of {len(self.trials)}",
            "baseline": self.gate_sentence,
            **{f"param {name}": value for name, value in self.params.items()},
            **{f"tag {name}": value for name, value in self.tags.items()},
            "seed": self.seed,
            "note": self.note,
            "error": self.error,
            "started": self.started_at,
        }
        return display.facts(f"StoredRun {self.uid}", facts)

    def __repr__(self) -> str:
        """Who it is and how far it got."""
        done = f"{self.counts['done']}/{len(self.trials)}"
        return (
            f"StoredRun({self.uid}: {self.experiment} on {self.model_label}, {self.status}, {done})"
        )
