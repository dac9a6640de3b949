"""What is studied: experiments, metrics, models, prompts and conditions."""

from sqlalchemy import CheckConstraint, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from mlux.store.tables.base import CASCADE, Base, BigInt, Id, Key, NameKey, is_one_of, table


class Experiment(Base):
    """A registered experiment; its code's hash is kept with each run."""

    __tablename__ = "experiments"
    __table_args__ = table(UniqueConstraint("name"))

    id: Mapped[Id]
    name: Mapped[str]
    description: Mapped[str]
    paper: Mapped[str] = mapped_column(doc="Whose definition it follows")


class Metric(Base):
    """What a number means. A changed definition is a new row, so old numbers keep theirs."""

    __tablename__ = "metrics"
    __table_args__ = table(
        UniqueConstraint("name", "unit", "better", "description"),
        is_one_of("better", "higher", "lower", "neither"),
    )

    id: Mapped[Id]
    name: Mapped[str]
    unit: Mapped[str]
    better: Mapped[str] = mapped_column(doc="Which way is better: higher, lower or neither")
    description: Mapped[str]


class Tokenizer(Base):
    """What decides which ids a text becomes."""

    __tablename__ = "tokenizers"
    __table_args__ = table(UniqueConstraint("identity_hash"))

    id: Mapped[Id]
    identity_hash: Mapped[str] = mapped_column(doc="SHA-256 of the columns below")
    name: Mapped[str]
    vocab_size: Mapped[int]
    content_hash: Mapped[str] = mapped_column(doc="SHA-256 of vocabulary and rules")
    chat_template_hash: Mapped[str | None] = mapped_column(doc="NULL without a chat template")


class Token(Base):
    """A token that occurs in some result; the rest of the vocabulary is not stored."""

    __tablename__ = "tokens"
    __table_args__ = table(
        UniqueConstraint("tokenizer_id", "token_id"),
        UniqueConstraint("tokenizer_id", "shown"),
    )

    id: Mapped[Id] = mapped_column(doc="What the other tables refer to")
    tokenizer_id: Mapped[int] = mapped_column(ForeignKey("tokenizers.id"))
    token_id: Mapped[int] = mapped_column(doc="The model's own id")
    text: Mapped[str] = mapped_column(doc="As the decoder writes it alone; several may share it")
    piece: Mapped[str | None] = mapped_column(
        doc="The vocabulary's own entry; NULL where it is not known"
    )
    shown: Mapped[str] = mapped_column(
        doc="To be read, and different for each id: ␣ is a space, <0xE2> a byte"
    )


class Model(Base):
    """A model that computes certain numbers: weights, quantisation, adapter, dtype, tokenizer."""

    __tablename__ = "models"
    __table_args__ = table(UniqueConstraint("content_hash"), UniqueConstraint("label"))

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
    __table_args__ = table(
        is_one_of("verdict", "exact", "approximate", "absent", "failed"), clustered=True
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
    __table_args__ = table(UniqueConstraint("content_hash"))

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
    __table_args__ = table(UniqueConstraint("name", "content_hash"))

    id: Mapped[Id]
    name: Mapped[str]
    description: Mapped[str]
    content_hash: Mapped[str] = mapped_column(doc="SHA-256 over the prompts in their order")


class PromptSetItem(Base):
    """A prompt's place in a set."""

    __tablename__ = "prompt_set_items"
    __table_args__ = table(clustered=True)

    prompt_set_id: Mapped[int] = mapped_column(
        ForeignKey("prompt_sets.id", ondelete=CASCADE), primary_key=True
    )
    position: Mapped[Key]
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"))


class Condition(Base):
    """What a prompt was run under, such as site=head; the empty condition has no values."""

    __tablename__ = "conditions"
    __table_args__ = table(
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
    __table_args__ = table(clustered=True)

    condition_id: Mapped[int] = mapped_column(
        ForeignKey("conditions.id", ondelete=CASCADE), primary_key=True
    )
    name: Mapped[NameKey]
    value: Mapped[str]
