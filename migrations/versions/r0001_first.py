"""The first schema: experiments, models and prompts; runs and trials; results; views.

Frozen history: it imports nothing of mlux and never changes once released.
"""

from typing import Any

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKeyConstraint,
    Integer,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import sqlite

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = BigInteger().with_variant(Integer(), "sqlite")
REAL: Double[Any] = Double().with_variant(sqlite.REAL(), "sqlite")


def upgrade() -> None:
    """Creates every table and view."""
    _create_catalogue()
    _create_runs()
    _create_results()
    for name, select in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {select}")


def downgrade() -> None:
    """Drops everything: there is no revision before the first."""
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")
    for name in reversed(TABLES):
        op.drop_table(name)


TABLES: tuple[str, ...] = (
    "experiments",
    "metrics",
    "tokenizers",
    "tokens",
    "models",
    "model_checks",
    "prompts",
    "prompt_sets",
    "prompt_set_items",
    "conditions",
    "condition_values",
    "runs",
    "run_params",
    "run_tags",
    "run_versions",
    "run_metrics",
    "run_events",
    "trials",
    "layer_results",
    "token_predictions",
    "trial_tokens",
    "generations",
    "artifacts",
)


def _create_catalogue() -> None:
    _table("experiments", _id(), _text("name description paper"), _unique("name"))
    _table(
        "metrics",
        _id(),
        _text("name unit better description"),
        _unique("name", "unit", "better", "description"),
        _check("better_is_known", "better IN ('higher', 'lower', 'neither')"),
    )
    _table(
        "tokenizers",
        _id(),
        _text("identity_hash name"),
        _integer("vocab_size"),
        _text("content_hash"),
        _text("chat_template_hash", nullable=True),
        _unique("identity_hash"),
    )
    _table(
        "tokens",
        _id(),
        _integer("tokenizer_id token_id"),
        _text("text"),
        _unique("tokenizer_id", "token_id"),
        _foreign("tokenizer_id", "tokenizers.id"),
    )
    _table(
        "models",
        _id(),
        _text("content_hash label name source"),
        _text("revision", nullable=True),
        _text("model_type"),
        _integer("n_layers n_heads n_kv_heads d_model d_head vocab_size"),
        [Column("n_parameters", BIG, nullable=False)],
        _text("dtype"),
        _integer("quant_bits quant_group_size", nullable=True),
        _text("quant_mode", nullable=True),
        _text("weights_hash"),
        _text("adapter_source adapter_hash", nullable=True),
        _integer("tokenizer_id"),
        _unique("content_hash"),
        _unique("label"),
        _foreign("tokenizer_id", "tokenizers.id"),
    )
    _table(
        "model_checks",
        _integer("model_id"),
        _text("site verdict"),
        [Column("error", REAL)],
        _text("reason checked_at versions"),
        _foreign("model_id", "models.id", cascade=True),
        _check("verdict_is_known", "verdict IN ('exact', 'approximate', 'absent', 'failed')"),
        key="model_id site",
    )
    _table(
        "prompts",
        _id(),
        _text("content_hash text"),
        _text("corrupted answer wrong_answer subject label", nullable=True),
        _text("template"),
        _text("token_ids", nullable=True),
        _unique("content_hash"),
    )
    _table(
        "prompt_sets",
        _id(),
        _text("name description content_hash"),
        _unique("name", "content_hash"),
    )
    _table(
        "prompt_set_items",
        _integer("prompt_set_id position prompt_id"),
        _foreign("prompt_set_id", "prompt_sets.id", cascade=True),
        _foreign("prompt_id", "prompts.id"),
        key="prompt_set_id position",
    )
    _table("conditions", _id(), _text("content_hash label"), _unique("content_hash"))
    _table(
        "condition_values",
        _integer("condition_id"),
        _text("name value"),
        _foreign("condition_id", "conditions.id", cascade=True),
        key="condition_id name",
    )


def _create_runs() -> None:
    _table(
        "runs",
        _id(),
        _text("uid"),
        _integer("experiment_id model_id prompt_set_id"),
        _text("status"),
        [Column("seed", BIG, nullable=False)],
        _integer("batch_size", nullable=True),
        _text("note", nullable=True),
        _text("code_hash"),
        _text("git_commit", nullable=True),
        _integer("git_dirty", nullable=True),
        _text("device host"),
        _integer("pid", nullable=True),
        _text("platform created_at"),
        _text("started_at heartbeat_at finished_at deleted_at error", nullable=True),
        [Column("seconds", REAL)],
        [Column("peak_memory_bytes", BIG), Column("hook_fires", BIG)],
        _unique("uid"),
        _check("status_is_known", "status IN ('queued', 'running', 'done', 'failed', 'crashed')"),
        _check("end_is_known", "status NOT IN ('done', 'failed') OR finished_at IS NOT NULL"),
        _check("process_is_known", "status <> 'running' OR pid IS NOT NULL"),
        _check("git_dirty_is_0_or_1", "git_dirty IN (0, 1)"),
        _foreign("experiment_id", "experiments.id"),
        _foreign("model_id", "models.id"),
        _foreign("prompt_set_id", "prompt_sets.id"),
    )
    op.create_index("ix_runs_experiment_id", "runs", ["experiment_id"])
    op.create_index("ix_runs_model_id", "runs", ["model_id"])
    of_run = _foreign("run_id", "runs.id", cascade=True)
    _table(
        "run_params",
        _integer("run_id"),
        _text("name value"),
        [Column("number", REAL)],
        of_run,
        key="run_id name",
    )
    _table("run_tags", _integer("run_id"), _text("name value"), of_run, key="run_id name")
    _table(
        "run_versions", _integer("run_id"), _text("package version"), of_run, key="run_id package"
    )
    _table(
        "run_metrics",
        _integer("run_id metric_id"),
        of_run,
        _foreign("metric_id", "metrics.id"),
        key="run_id metric_id",
    )
    _table("run_events", _id(), _integer("run_id"), _text("at kind message"), of_run)
    op.create_index("ix_run_events_run_id", "run_events", ["run_id"])
    _table(
        "trials",
        _integer("run_id trial prompt_id condition_id"),
        _text("status"),
        _text("error finished_at", nullable=True),
        _unique("run_id", "prompt_id", "condition_id"),
        _check("status_is_known", "status IN ('pending', 'done', 'failed')"),
        _check("trial_counts_from_0", "trial >= 0"),
        _check("end_is_known", "status = 'pending' OR finished_at IS NOT NULL"),
        of_run,
        _foreign("prompt_id", "prompts.id"),
        _foreign("condition_id", "conditions.id"),
        key="run_id trial",
    )


def _create_results() -> None:
    of_trial = _foreign("run_id trial", "trials.run_id trials.trial", cascade=True)
    _table(
        "layer_results",
        _integer("run_id metric_id trial layer head position"),
        [Column("value", REAL, nullable=False)],
        of_trial,
        _check("place_is_valid", "layer >= -1 AND head >= -1 AND position >= -1"),
        _foreign("metric_id", "metrics.id"),
        key="run_id metric_id trial layer head position",
    )
    _table(
        "token_predictions",
        _integer("run_id trial layer position rank token"),
        [Column("logprob", REAL, nullable=False)],
        of_trial,
        _check("place_is_valid", "layer >= -1 AND position >= 0 AND rank >= 0"),
        _foreign("token", "tokens.id"),
        key="run_id trial layer position rank",
    )
    _table(
        "trial_tokens",
        _integer("run_id trial"),
        _text("role"),
        _integer("position token"),
        of_trial,
        _check("place_is_valid", "position >= 0"),
        _foreign("token", "tokens.id"),
        key="run_id trial role position",
    )
    _table(
        "generations",
        _integer("run_id trial sample"),
        _text("text token_ids"),
        of_trial,
        key="run_id trial sample",
    )
    _table(
        "artifacts",
        _id(),
        _integer("run_id"),
        _integer("trial", nullable=True),
        _text("name kind sha256"),
        [Column("bytes", BIG, nullable=False)],
        of_trial,
        _unique("run_id", "trial", "name"),
        _check("bytes_count", "bytes >= 0"),
        _foreign("run_id", "runs.id", cascade=True),
    )
    op.create_index("ix_artifacts_sha256", "artifacts", ["sha256"])


Parts = list[Column[Any]]
Constraint = tuple[str, tuple[Any, ...]]


def _id() -> Parts:
    return [Column("id", Integer, nullable=False)]


def _integer(names: str, *, nullable: bool = False) -> Parts:
    return [Column(name, Integer, nullable=nullable, autoincrement=False) for name in names.split()]


def _text(names: str, *, nullable: bool = False) -> Parts:
    return [Column(name, Text, nullable=nullable) for name in names.split()]


def _unique(*names: str) -> Constraint:
    return "unique", names


def _check(name: str, condition: str) -> Constraint:
    return "check", (name, condition)


def _foreign(names: str, targets: str, *, cascade: bool = False) -> Constraint:
    return "foreign", (names.split(), targets.split(), "CASCADE" if cascade else None)


def _table(name: str, *parts: Parts | Constraint, key: str | None = None) -> None:
    """Creates a table: by `id`, or clustered by `key` (on SQLite: WITHOUT ROWID)."""
    keys = key.split() if key else ["id"]
    columns = [column for part in parts if isinstance(part, list) for column in part]
    constraints: list[Any] = [PrimaryKeyConstraint(*keys, name=f"pk_{name}")]
    for part in parts:
        if isinstance(part, list):
            continue
        kind, detail = part
        if kind == "unique":
            label = f"uq_{name}_{'_'.join(detail)}"
            constraints.append(UniqueConstraint(*detail, name=label))
        elif kind == "check":
            constraints.append(CheckConstraint(detail[1], name=f"ck_{name}_{detail[0]}"))
        else:
            names, targets, ondelete = detail
            label = f"fk_{name}_{'_'.join(names)}"
            constraints.append(ForeignKeyConstraint(names, targets, name=label, ondelete=ondelete))
    op.create_table(name, *columns, *constraints, sqlite_strict=True, sqlite_with_rowid=key is None)


VIEWS = {
    "run_overview": """
SELECT r.uid AS run, e.name AS experiment, m.label AS model, s.name AS prompt_set, r.status,
  (SELECT count(*) FROM trials AS t WHERE t.run_id = r.id) AS trials,
  (SELECT count(*) FROM trials AS t WHERE t.run_id = r.id AND t.status = 'done') AS done,
  (SELECT count(*) FROM trials AS t WHERE t.run_id = r.id AND t.status = 'failed') AS failed,
  r.seed, r.batch_size, r.note, m.dtype, m.quant_bits, r.device, r.created_at, r.started_at,
  r.finished_at, r.seconds, r.git_commit, r.error
FROM runs AS r
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN prompt_sets AS s ON s.id = r.prompt_set_id
WHERE r.deleted_at IS NULL
""",
    "results": """
SELECT r.uid AS run, e.name AS experiment, m.label AS model, p.text AS prompt,
  c.label AS condition, k.name AS metric, NULLIF(v.layer, -1) AS layer,
  NULLIF(v.head, -1) AS head, NULLIF(v.position, -1) AS position, v.value,
  v.trial, p.label, p.answer
FROM layer_results AS v
JOIN runs AS r ON r.id = v.run_id
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN trials AS t ON t.run_id = v.run_id AND t.trial = v.trial
JOIN prompts AS p ON p.id = t.prompt_id
JOIN conditions AS c ON c.id = t.condition_id
JOIN metrics AS k ON k.id = v.metric_id
WHERE r.deleted_at IS NULL
""",
    "predictions": """
SELECT r.uid AS run, e.name AS experiment, m.label AS model, p.text AS prompt,
  c.label AS condition, NULLIF(v.layer, -1) AS layer, v.position, v.rank, w.text AS token,
  exp(v.logprob) AS probability, v.trial, p.label, p.answer
FROM token_predictions AS v
JOIN runs AS r ON r.id = v.run_id
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN trials AS t ON t.run_id = v.run_id AND t.trial = v.trial
JOIN prompts AS p ON p.id = t.prompt_id
JOIN conditions AS c ON c.id = t.condition_id
JOIN tokens AS w ON w.id = v.token
WHERE r.deleted_at IS NULL
""",
}
