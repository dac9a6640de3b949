"""What trials and runs brought: numbers, tokens, texts and files."""

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from mlux.store.tables.base import (
    CASCADE,
    Base,
    BigInt,
    Id,
    Key,
    NameKey,
    at_least,
    is_number,
    of_trial,
    table,
)


class LayerResult(Base):
    """One number. -1 stands for no layer, no head or no position; the view shows NULL."""

    __tablename__ = "layer_results"
    __table_args__ = of_trial(at_least(layer=-1, head=-1, position=-1), is_number("value"))

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
    __table_args__ = of_trial(at_least(layer=-1, position=0, rank=0), is_number("logprob"))

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
    __table_args__ = of_trial(at_least(position=0))

    run_id: Mapped[Key]
    trial: Mapped[Key]
    role: Mapped[NameKey]
    position: Mapped[Key]
    token: Mapped[int] = mapped_column(ForeignKey("tokens.id"))


class Generation(Base):
    """A text that the model continued."""

    __tablename__ = "generations"
    __table_args__ = of_trial(at_least(sample=0))

    run_id: Mapped[Key]
    trial: Mapped[Key]
    sample: Mapped[Key]
    text: Mapped[str]
    token_ids: Mapped[str] = mapped_column(doc="The model's ids, separated by spaces")


class Artifact(Base):
    """Named arrays in a file beside the database, which is called by its hash."""

    __tablename__ = "artifacts"
    __table_args__ = table(
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
