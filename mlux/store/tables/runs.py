"""Runs, who works on them, and their trials."""

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from mlux.store.tables.base import CASCADE, Base, BigInt, Id, Key, NameKey, RunKey, is_one_of, table


class Run(Base):
    """One experiment on one model and prompt set, and where its numbers come from."""

    __tablename__ = "runs"
    __table_args__ = table(
        UniqueConstraint("uid"),
        Index(None, "experiment_id"),
        Index(None, "model_id"),
        is_one_of("status", "queued", "running", "done", "failed", "crashed"),
        CheckConstraint(
            "status NOT IN ('done', 'failed') OR finished_at IS NOT NULL", name="end_is_known"
        ),
        CheckConstraint("status <> 'running' OR pid IS NOT NULL", name="process_is_known"),
        CheckConstraint("git_dirty IN (0, 1)", name="git_dirty_is_0_or_1"),
        CheckConstraint("batch_size > 0 AND memory_bytes > 0", name="sizes_are_positive"),
        CheckConstraint(
            "seconds >= 0 AND peak_memory_bytes >= 0 AND hook_fires >= 0", name="costs_are_counts"
        ),
    )

    id: Mapped[Id]
    uid: Mapped[str] = mapped_column(doc="The run's name, the same in every database")
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiments.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    prompt_set_id: Mapped[int] = mapped_column(ForeignKey("prompt_sets.id"))
    status: Mapped[str] = mapped_column(doc="queued, running, done, failed or crashed")
    seed: Mapped[BigInt]
    batch_size: Mapped[int | None] = mapped_column(doc="NULL if chosen from the memory budget")
    note: Mapped[str | None]
    code_hash: Mapped[str] = mapped_column(doc="SHA-256 of the experiment's file")
    git_commit: Mapped[str | None]
    git_dirty: Mapped[int | None]
    device: Mapped[str]
    host: Mapped[str]
    pid: Mapped[int | None] = mapped_column(doc="The process that works or worked on it")
    platform: Mapped[str]
    created_at: Mapped[str]
    started_at: Mapped[str | None]
    heartbeat_at: Mapped[str | None] = mapped_column(doc="The last sign of life")
    finished_at: Mapped[str | None]
    deleted_at: Mapped[str | None] = mapped_column(doc="Set while in the bin")
    error: Mapped[str | None]
    seconds: Mapped[float | None] = mapped_column(doc="Time spent computing, over all resumes")
    peak_memory_bytes: Mapped[BigInt | None]
    hook_fires: Mapped[BigInt | None] = mapped_column(doc="How often hooks ran, over all resumes")
    memory_bytes: Mapped[BigInt | None] = mapped_column(doc="The budget of its sweeps")
    rerun_of: Mapped[str | None] = mapped_column(doc="The uid of the run that it repeats")


class RunParam(Base):
    """An option of the experiment as the run had it."""

    __tablename__ = "run_params"
    __table_args__ = table(clustered=True)

    run_id: Mapped[RunKey]
    name: Mapped[NameKey]
    value: Mapped[str] = mapped_column(doc="JSON")
    number: Mapped[float | None] = mapped_column(doc="The value where it is a number")


class RunTag(Base):
    """A tag that a person gave."""

    __tablename__ = "run_tags"
    __table_args__ = table(clustered=True)

    run_id: Mapped[RunKey]
    name: Mapped[NameKey]
    value: Mapped[str]


class RunVersion(Base):
    """The version of a package that the run used."""

    __tablename__ = "run_versions"
    __table_args__ = table(clustered=True)

    run_id: Mapped[RunKey]
    package: Mapped[NameKey]
    version: Mapped[str]


class RunMetric(Base):
    """A metric that the run declares, as it was defined then."""

    __tablename__ = "run_metrics"
    __table_args__ = table(
        UniqueConstraint("run_id", "place"),
        CheckConstraint("place >= 0", name="place_counts_from_0"),
        clustered=True,
    )

    run_id: Mapped[RunKey]
    metric_id: Mapped[int] = mapped_column(ForeignKey("metrics.id"), primary_key=True)
    place: Mapped[int] = mapped_column(doc="0, 1, 2, … as the experiment declares them")


class RunEvent(Base):
    """What happened to a run: created, started, resumed, finished, crashed."""

    __tablename__ = "run_events"
    __table_args__ = table(Index(None, "run_id"))

    id: Mapped[Id]
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete=CASCADE))
    at: Mapped[str]
    kind: Mapped[str]
    message: Mapped[str]


class RunWorker(Base):
    """A process that shares the run's trials with others; a run of one process has none."""

    __tablename__ = "run_workers"
    __table_args__ = table(
        CheckConstraint("worker >= 0 AND pid > 0", name="worker_counts_from_0"), clustered=True
    )

    run_id: Mapped[RunKey]
    worker: Mapped[Key] = mapped_column(doc="0, 1, 2, … within the run")
    host: Mapped[str]
    pid: Mapped[int]
    device: Mapped[str]
    started_at: Mapped[str]
    heartbeat_at: Mapped[str] = mapped_column(doc="The last sign of life")
    finished_at: Mapped[str | None] = mapped_column(doc="NULL while it works")


class Trial(Base):
    """One prompt under one condition: the unit that commits, resumes and pairs."""

    __tablename__ = "trials"
    __table_args__ = table(
        UniqueConstraint("run_id", "prompt_id", "condition_id"),
        is_one_of("status", "pending", "done", "failed"),
        CheckConstraint("trial >= 0", name="trial_counts_from_0"),
        CheckConstraint("status = 'pending' OR finished_at IS NOT NULL", name="end_is_known"),
        ForeignKeyConstraint(["run_id", "worker"], ["run_workers.run_id", "run_workers.worker"]),
        clustered=True,
    )

    run_id: Mapped[RunKey]
    trial: Mapped[Key] = mapped_column(doc="0, 1, 2, … within the run")
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"))
    condition_id: Mapped[int] = mapped_column(ForeignKey("conditions.id"))
    status: Mapped[str] = mapped_column(doc="pending, done or failed")
    error: Mapped[str | None] = mapped_column(
        doc="Why it failed; of one that is done, why its prompt is not solved"
    )
    finished_at: Mapped[str | None]
    worker: Mapped[int | None] = mapped_column(doc="Who has claimed or done it; NULL for anybody")
