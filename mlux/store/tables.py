"""The schema as SQLAlchemy tables: what is studied, the runs, and their numbers.

Tables are dumb; queries live in `reader` and `compare`, the views for people in `views`. A change
here needs a revision in `migrations/versions`; a test holds the two together. The types are those
that SQLite's STRICT tables and PostgreSQL share: integers, doubles and text. Times are ISO-8601
text in UTC, which sorts by time; yes and no are 1 and 0.
"""

from typing import Annotated, Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}
CASCADE = "CASCADE"

# STRICT knows INTEGER and REAL only; on PostgreSQL the same words would be 4 bytes wide.
Big = BigInteger().with_variant(Integer(), "sqlite")
Real: Double[Any] = Double().with_variant(sqlite.REAL(), "sqlite")

Id = Annotated[int, mapped_column(Integer, primary_key=True)]
Key = Annotated[int, mapped_column(Integer, primary_key=True, autoincrement=False)]
RunKey = Annotated[
    int,
    mapped_column(ForeignKey("runs.id", ondelete=CASCADE), primary_key=True, autoincrement=False),
]
NameKey = Annotated[str, mapped_column(Text, primary_key=True)]
BigInt = Annotated[int, mapped_column(Big)]


class Base(DeclarativeBase):
    """What every table shares: constraint names and column types."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {str: Text(), int: Integer(), float: Real}  # noqa: RUF012 # read by SQLAlchemy


def _table(*constraints: Any, clustered: bool = False) -> tuple[Any, ...]:
    """Table arguments: STRICT, and rows stored in the order of the key if clustered."""
    return (*constraints, {"sqlite_strict": True, "sqlite_with_rowid": not clustered})


def _is_one_of(column: str, *values: str) -> CheckConstraint:
    return CheckConstraint(
        f"{column} IN ({', '.join(map(repr, values))})", name=f"{column}_is_known"
    )


class Experiment(Base):
    """A registered experiment; its code's hash is kept with each run."""

    __tablename__ = "experiments"
    __table_args__ = _table(UniqueConstraint("name"))

    id: Mapped[Id]
    name: Mapped[str]
    description: Mapped[str]
    paper: Mapped[str] = mapped_column(doc="Whose definition it follows")


class Metric(Base):
    """What a number means. A changed definition is a new row, so old numbers keep theirs."""

    __tablename__ = "metrics"
    __table_args__ = _table(
        UniqueConstraint("name", "unit", "better", "description"),
        _is_one_of("better", "higher", "lower", "neither"),
    )

    id: Mapped[Id]
    name: Mapped[str]
    unit: Mapped[str]
    better: Mapped[str] = mapped_column(doc="Which way is better: higher, lower or neither")
    description: Mapped[str]


class Tokenizer(Base):
    """What decides which ids a text becomes."""

    __tablename__ = "tokenizers"
    __table_args__ = _table(UniqueConstraint("identity_hash"))

    id: Mapped[Id]
    identity_hash: Mapped[str] = mapped_column(doc="SHA-256 of the columns below")
    name: Mapped[str]
    vocab_size: Mapped[int]
    content_hash: Mapped[str] = mapped_column(doc="SHA-256 of vocabulary and rules")
    chat_template_hash: Mapped[str | None] = mapped_column(doc="NULL without a chat template")


class Token(Base):
    """A token that occurs in some result; the rest of the vocabulary is not stored."""

    __tablename__ = "tokens"
    __table_args__ = _table(UniqueConstraint("tokenizer_id", "token_id"))

    id: Mapped[Id] = mapped_column(doc="What the other tables refer to")
    tokenizer_id: Mapped[int] = mapped_column(ForeignKey("tokenizers.id"))
    token_id: Mapped[int] = mapped_column(doc="The model's own id")
    text: Mapped[str]


class Model(Base):
    """A model that computes certain numbers: weights, quantisation, adapter, dtype, tokenizer."""

    __tablename__ = "models"
    __table_args__ = _table(UniqueConstraint("content_hash"), UniqueConstraint("label"))

    id: Mapped[Id]
    content_hash: Mapped[str] = mapped_column(doc="SHA-256 of what the numbers depend on")
    label: Mapped[str] = mapped_column(doc="The name, made unique where two models share it")
    name: Mapped[str] = mapped_column(doc="What people call it")
    source: Mapped[str] = mapped_column(doc="What loads it: demo, a hub id, a folder")
    revision: Mapped[str | None] = mapped_column(doc="The hub's commit")
    model_type: Mapped[str]
    n_layers: Mapped[int]
    n_heads: Mapped[int]
    n_kv_heads: Mapped[int]
    d_model: Mapped[int]
    d_head: Mapped[int]
    vocab_size: Mapped[int]
    n_parameters: Mapped[BigInt]
    dtype: Mapped[str] = mapped_column(doc="The dtype of the computation")
    quant_bits: Mapped[int | None] = mapped_column(doc="NULL for an unquantised model")
    quant_group_size: Mapped[int | None]
    quant_mode: Mapped[str | None]
    weights_hash: Mapped[str] = mapped_column(doc="SHA-256 over the weight files")
    adapter_source: Mapped[str | None]
    adapter_hash: Mapped[str | None]
    tokenizer_id: Mapped[int] = mapped_column(ForeignKey("tokenizers.id"))


class ModelCheck(Base):
    """A line of a model's latest self-test."""

    __tablename__ = "model_checks"
    __table_args__ = _table(
        _is_one_of("verdict", "exact", "approximate", "absent", "failed"), clustered=True
    )

    model_id: Mapped[int] = mapped_column(
        ForeignKey("models.id", ondelete=CASCADE), primary_key=True
    )
    site: Mapped[NameKey] = mapped_column(doc="A kind of site, or a property")
    verdict: Mapped[str] = mapped_column(doc="exact, approximate, absent or failed")
    error: Mapped[float | None] = mapped_column(doc="Relative; NULL where nothing was measured")
    reason: Mapped[str]
    checked_at: Mapped[str]
    versions: Mapped[str] = mapped_column(doc="Of the packages that can change a number")


class Prompt(Base):
    """A prompt and its roles; equal prompts are one row."""

    __tablename__ = "prompts"
    __table_args__ = _table(UniqueConstraint("content_hash"))

    id: Mapped[Id]
    content_hash: Mapped[str]
    text: Mapped[str]
    corrupted: Mapped[str | None] = mapped_column(doc="As many tokens, without the cue")
    answer: Mapped[str | None]
    wrong_answer: Mapped[str | None]
    subject: Mapped[str | None] = mapped_column(doc="The part of the text it is about")
    label: Mapped[str | None]
    template: Mapped[str] = mapped_column(doc="raw or chat")
    token_ids: Mapped[str | None] = mapped_column(doc="Prescribed ids, separated by spaces")


class PromptSet(Base):
    """A named, ordered list of prompts."""

    __tablename__ = "prompt_sets"
    __table_args__ = _table(UniqueConstraint("name", "content_hash"))

    id: Mapped[Id]
    name: Mapped[str]
    description: Mapped[str]
    content_hash: Mapped[str] = mapped_column(doc="SHA-256 over the prompts in their order")


class PromptSetItem(Base):
    """A prompt's place in a set."""

    __tablename__ = "prompt_set_items"
    __table_args__ = _table(clustered=True)

    prompt_set_id: Mapped[int] = mapped_column(
        ForeignKey("prompt_sets.id", ondelete=CASCADE), primary_key=True
    )
    position: Mapped[Key]
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"))


class Condition(Base):
    """What a prompt was run under, such as site=head; the empty condition has no values."""

    __tablename__ = "conditions"
    __table_args__ = _table(
        UniqueConstraint("content_hash"),
        CheckConstraint("controls_id <> id", name="control_is_another"),
    )

    id: Mapped[Id]
    content_hash: Mapped[str]
    label: Mapped[str] = mapped_column(doc="name=value, joined by commas")
    controls_id: Mapped[int | None] = mapped_column(
        ForeignKey("conditions.id"),
        doc="The condition that this one, with `control`, is held against",
    )


class ConditionValue(Base):
    """One name and value of a condition."""

    __tablename__ = "condition_values"
    __table_args__ = _table(clustered=True)

    condition_id: Mapped[int] = mapped_column(
        ForeignKey("conditions.id", ondelete=CASCADE), primary_key=True
    )
    name: Mapped[NameKey]
    value: Mapped[str]


class Run(Base):
    """One experiment on one model and prompt set, and where its numbers come from."""

    __tablename__ = "runs"
    __table_args__ = _table(
        UniqueConstraint("uid"),
        Index(None, "experiment_id"),
        Index(None, "model_id"),
        _is_one_of("status", "queued", "running", "done", "failed", "crashed"),
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
    __table_args__ = _table(clustered=True)

    run_id: Mapped[RunKey]
    name: Mapped[NameKey]
    value: Mapped[str] = mapped_column(doc="JSON")
    number: Mapped[float | None] = mapped_column(doc="The value where it is a number")


class RunTag(Base):
    """A tag that a person gave."""

    __tablename__ = "run_tags"
    __table_args__ = _table(clustered=True)

    run_id: Mapped[RunKey]
    name: Mapped[NameKey]
    value: Mapped[str]


class RunVersion(Base):
    """The version of a package that the run used."""

    __tablename__ = "run_versions"
    __table_args__ = _table(clustered=True)

    run_id: Mapped[RunKey]
    package: Mapped[NameKey]
    version: Mapped[str]


class RunMetric(Base):
    """A metric that the run declares, as it was defined then."""

    __tablename__ = "run_metrics"
    __table_args__ = _table(clustered=True)

    run_id: Mapped[RunKey]
    metric_id: Mapped[int] = mapped_column(ForeignKey("metrics.id"), primary_key=True)


class RunEvent(Base):
    """What happened to a run: created, started, resumed, finished, crashed."""

    __tablename__ = "run_events"
    __table_args__ = _table(Index(None, "run_id"))

    id: Mapped[Id]
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete=CASCADE))
    at: Mapped[str]
    kind: Mapped[str]
    message: Mapped[str]


class RunWorker(Base):
    """A process that shares the run's trials with others; a run of one process has none."""

    __tablename__ = "run_workers"
    __table_args__ = _table(
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
    __table_args__ = _table(
        UniqueConstraint("run_id", "prompt_id", "condition_id"),
        _is_one_of("status", "pending", "done", "failed"),
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
    error: Mapped[str | None]
    finished_at: Mapped[str | None]
    worker: Mapped[int | None] = mapped_column(doc="Who has claimed or done it; NULL for anybody")


def _of_trial(*constraints: Any) -> tuple[Any, ...]:
    """Table arguments of a result: it goes when its trial goes."""
    trial = ForeignKeyConstraint(
        ["run_id", "trial"], ["trials.run_id", "trials.trial"], ondelete=CASCADE
    )
    return _table(trial, *constraints, clustered=True)


def _at_least(**least: int) -> CheckConstraint:
    bounds = " AND ".join(f"{column} >= {bound}" for column, bound in least.items())
    return CheckConstraint(bounds, name="place_is_valid")


def _is_number(column: str) -> CheckConstraint:
    """No NaN, which SQLite takes for NULL and refuses by itself."""
    check = CheckConstraint(f"{column} <> 'NaN'", name=f"{column}_is_a_number")
    return check.ddl_if(dialect="postgresql")


class LayerResult(Base):
    """One number. -1 stands for no layer, no head or no position; the view shows NULL."""

    __tablename__ = "layer_results"
    __table_args__ = _of_trial(_at_least(layer=-1, head=-1, position=-1), _is_number("value"))

    run_id: Mapped[Key]
    metric_id: Mapped[int] = mapped_column(ForeignKey("metrics.id"), primary_key=True)
    trial: Mapped[Key]
    layer: Mapped[Key]
    head: Mapped[Key]
    position: Mapped[Key]
    value: Mapped[float]


class TokenPrediction(Base):
    """One of the most probable next tokens at a layer and position; rank 0 is the first."""

    __tablename__ = "token_predictions"
    __table_args__ = _of_trial(_at_least(layer=-1, position=0, rank=0), _is_number("logprob"))

    run_id: Mapped[Key]
    trial: Mapped[Key]
    layer: Mapped[Key]
    position: Mapped[Key]
    rank: Mapped[Key]
    token: Mapped[int] = mapped_column(ForeignKey("tokens.id"))
    logprob: Mapped[float] = mapped_column(doc="Natural logarithm")


class TrialToken(Base):
    """The exact ids that were run; role tells the clean text from the corrupted one."""

    __tablename__ = "trial_tokens"
    __table_args__ = _of_trial(_at_least(position=0))

    run_id: Mapped[Key]
    trial: Mapped[Key]
    role: Mapped[NameKey]
    position: Mapped[Key]
    token: Mapped[int] = mapped_column(ForeignKey("tokens.id"))


class Generation(Base):
    """A text that the model continued."""

    __tablename__ = "generations"
    __table_args__ = _of_trial(_at_least(sample=0))

    run_id: Mapped[Key]
    trial: Mapped[Key]
    sample: Mapped[Key]
    text: Mapped[str]
    token_ids: Mapped[str] = mapped_column(doc="The model's ids, separated by spaces")


class Artifact(Base):
    """Named arrays in a file beside the database, which is called by its hash."""

    __tablename__ = "artifacts"
    __table_args__ = _table(
        ForeignKeyConstraint(
            ["run_id", "trial"], ["trials.run_id", "trials.trial"], ondelete=CASCADE
        ),
        UniqueConstraint("run_id", "trial", "name"),
        # For the line above two NULLs are different trials.
        Index(
            "uq_artifacts_run_id_name",
            *("run_id", "name"),
            unique=True,
            sqlite_where=text("trial IS NULL"),
            postgresql_where=text("trial IS NULL"),
        ),
        Index(None, "sha256"),
        CheckConstraint("bytes >= 0", name="bytes_count"),
        CheckConstraint("length(sha256) = 64", name="sha256_is_whole"),
    )

    id: Mapped[Id]
    run_id: Mapped[int] = mapped_column(ForeignKey("runs.id", ondelete=CASCADE))
    trial: Mapped[int | None] = mapped_column(doc="NULL if it belongs to the whole run")
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(doc="Such as vector, activations, pattern, lens")
    sha256: Mapped[str] = mapped_column(doc="Of the file")
    bytes: Mapped[BigInt]


class Claim(Base):
    """What somebody says the runs show."""

    __tablename__ = "claims"
    __table_args__ = _table(
        UniqueConstraint("uid"), _is_one_of("status", "supported", "refuted", "open")
    )

    id: Mapped[Id]
    uid: Mapped[str] = mapped_column(doc="The claim's name, the same in every database")
    text: Mapped[str]
    status: Mapped[str] = mapped_column(doc="supported, refuted or open")
    note: Mapped[str | None]
    created_at: Mapped[str]
    updated_at: Mapped[str]


class ClaimRun(Base):
    """A run that speaks for or against a claim."""

    __tablename__ = "claim_runs"
    __table_args__ = _table(Index(None, "run_id"), clustered=True)

    claim_id: Mapped[int] = mapped_column(
        ForeignKey("claims.id", ondelete=CASCADE), primary_key=True
    )
    run_id: Mapped[RunKey]
    note: Mapped[str | None] = mapped_column(doc="What in the run")
