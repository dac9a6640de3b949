"""Controls, claims, shared work, artifacts of whole runs, and more nonsense that is refused.

Frozen history: it imports nothing of mlux and never changes once released. What r0001 cannot hold
is lost on the way back: claims, workers, memory budgets, which run another repeats, and what a
control controls (its condition keeps the value `control`, so coming forward again finds it).
"""

import json
from hashlib import sha256

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None

# Table → what it gains: columns with SQLite's type and PostgreSQL's, and constraints.
COLUMNS: dict[str, dict[str, str]] = {
    "conditions": {"controls_id": "INTEGER"},
    "runs": {"memory_bytes": "BIGINT", "rerun_of": "TEXT"},
    "trials": {"worker": "INTEGER"},
}
CONSTRAINTS: dict[str, dict[str, str]] = {
    "conditions": {
        "ck_conditions_control_is_another": "CHECK (controls_id <> id)",
        "fk_conditions_controls_id": "FOREIGN KEY(controls_id) REFERENCES conditions (id)",
    },
    "runs": {
        "ck_runs_sizes_are_positive": "CHECK (batch_size > 0 AND memory_bytes > 0)",
        "ck_runs_costs_are_counts": (
            "CHECK (seconds >= 0 AND peak_memory_bytes >= 0 AND hook_fires >= 0)"
        ),
    },
    "trials": {
        "fk_trials_run_id_worker": (
            "FOREIGN KEY(run_id, worker) REFERENCES run_workers (run_id, worker)"
        ),
    },
    "generations": {"ck_generations_place_is_valid": "CHECK (sample >= 0)"},
    "artifacts": {"ck_artifacts_sha256_is_whole": "CHECK (length(sha256) = 64)"},
}
# SQLite takes a NaN for NULL and refuses it by itself.
POSTGRES_CONSTRAINTS = {
    "layer_results": {"ck_layer_results_value_is_a_number": "CHECK (value <> 'NaN')"},
    "token_predictions": {"ck_token_predictions_logprob_is_a_number": "CHECK (logprob <> 'NaN')"},
}


def upgrade() -> None:
    """Adds what is new; existing controls find what they control."""
    _drop_views()
    _create_tables()
    if _on_sqlite():
        for table in CONSTRAINTS:
            _rebuild(table, gain=True)
    else:
        _alter(gain=True)
    op.create_index(
        "uq_artifacts_run_id_name",
        "artifacts",
        ["run_id", "name"],
        unique=True,
        sqlite_where=sa.text("trial IS NULL"),
        postgresql_where=sa.text("trial IS NULL"),
    )
    _link_controls(op.get_bind())
    _create_views(RESULTS)


def downgrade() -> None:
    """Goes back to r0001; every number stays."""
    _drop_views()
    op.drop_index("uq_artifacts_run_id_name", "artifacts")
    if _on_sqlite():
        for table in CONSTRAINTS:
            _rebuild(table, gain=False)
    else:
        _alter(gain=False)
    for table in ("claim_runs", "claims", "run_workers"):
        op.drop_table(table)
    _create_views(RESULTS_BEFORE)


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def _key(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, autoincrement=False)


def _of(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [f"{target}.id"], name=f"fk_{table}_{column}", ondelete="CASCADE"
    )


def _create_tables() -> None:
    op.create_table(
        "run_workers",
        *(_key("run_id"), _key("worker"), _text("host"), _key("pid"), _text("device")),
        *(_text("started_at"), _text("heartbeat_at"), _text("finished_at", nullable=True)),
        sa.PrimaryKeyConstraint("run_id", "worker", name="pk_run_workers"),
        sa.CheckConstraint("worker >= 0 AND pid > 0", name="ck_run_workers_worker_counts_from_0"),
        _of("run_workers", "run_id", "runs"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "claims",
        sa.Column("id", sa.Integer, nullable=False),
        *(_text("uid"), _text("text"), _text("status"), _text("note", nullable=True)),
        *(_text("created_at"), _text("updated_at")),
        sa.PrimaryKeyConstraint("id", name="pk_claims"),
        sa.UniqueConstraint("uid", name="uq_claims_uid"),
        sa.CheckConstraint(
            "status IN ('supported', 'refuted', 'open')", name="ck_claims_status_is_known"
        ),
        sqlite_strict=True,
    )
    op.create_table(
        "claim_runs",
        *(_key("claim_id"), _key("run_id"), _text("note", nullable=True)),
        sa.PrimaryKeyConstraint("claim_id", "run_id", name="pk_claim_runs"),
        _of("claim_runs", "claim_id", "claims"),
        _of("claim_runs", "run_id", "runs"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("ix_claim_runs_run_id", "claim_runs", ["run_id"])


def _rebuild(table: str, *, gain: bool) -> None:
    """Makes an SQLite table anew with its gains, or without them, and copies its rows.

    SQLite cannot add a constraint to a table. The statement that made the table is in its catalogue
    with each column and constraint on a line of its own, as r0001 wrote it.
    """
    bind = op.get_bind()
    indices = bind.exec_driver_sql(
        "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL",
        (table,),
    ).fetchall()
    made = bind.exec_driver_sql(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)
    ).scalar_one()
    body, tail = made.partition("(\n")[2].rsplit("\n)", 1)
    lines = [line.strip().rstrip(", ").rstrip() for line in body.splitlines()]
    columns = [line for line in lines if not line.startswith("CONSTRAINT ")]
    constraints = [line for line in lines if line.startswith("CONSTRAINT ")]
    new = COLUMNS.get(table, {})
    kept = [line for line in columns if line.split()[0] not in new]
    names = ", ".join(line.split()[0] for line in kept)
    if gain:
        columns += [f"{name} {kind.replace('BIGINT', 'INTEGER')}" for name, kind in new.items()]
        constraints += [f"CONSTRAINT {n} {rule}" for n, rule in CONSTRAINTS[table].items()]
    else:
        columns = kept
        constraints = [line for line in constraints if line.split()[1] not in CONSTRAINTS[table]]
    content = ", \n\t".join(columns + constraints)
    bind.exec_driver_sql(f"CREATE TABLE {table}_anew (\n\t{content}\n){tail}")
    bind.exec_driver_sql(f"INSERT INTO {table}_anew ({names}) SELECT {names} FROM {table}")
    bind.exec_driver_sql(f"DROP TABLE {table}")
    bind.exec_driver_sql(f"ALTER TABLE {table}_anew RENAME TO {table}")
    for (index,) in indices:
        bind.exec_driver_sql(index)


def _alter(*, gain: bool) -> None:
    """The same on PostgreSQL, which can change a table where it is."""
    constraints = CONSTRAINTS | POSTGRES_CONSTRAINTS
    if gain:
        for table, columns in COLUMNS.items():
            for name, kind in columns.items():
                op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    for table, rules in constraints.items():
        for name, rule in rules.items():
            change = f"ADD CONSTRAINT {name} {rule}" if gain else f"DROP CONSTRAINT {name}"
            op.execute(f"ALTER TABLE {table} {change}")
    if not gain:
        for table, columns in COLUMNS.items():
            for name in columns:
                op.execute(f"ALTER TABLE {table} DROP COLUMN {name}")


def _link_controls(bind: sa.Connection) -> None:
    """Conditions with a value `control` are held against those of the same other values."""
    controls = bind.execute(
        sa.text("SELECT condition_id FROM condition_values WHERE name = 'control' ORDER BY 1")
    ).scalars()
    for key in controls.all():
        found = bind.execute(
            sa.text(
                "SELECT name, value FROM condition_values WHERE condition_id = :key ORDER BY name"
            ),
            {"key": key},
        )
        values = {name: value for name, value in found.all() if name != "control"}
        digest = sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        wanted = {"hash": digest}
        known = sa.text("SELECT id FROM conditions WHERE content_hash = :hash")
        controlled = bind.execute(known, wanted).scalar()
        if controlled is None:
            label = ", ".join(f"{name}={value}" for name, value in values.items())
            bind.execute(
                sa.text("INSERT INTO conditions (content_hash, label) VALUES (:hash, :label)"),
                wanted | {"label": label},
            )
            controlled = bind.execute(known, wanted).scalar_one()
            for name, value in values.items():
                bind.execute(
                    sa.text("INSERT INTO condition_values VALUES (:key, :name, :value)"),
                    {"key": controlled, "name": name, "value": value},
                )
        bind.execute(
            sa.text("UPDATE conditions SET controls_id = :controlled WHERE id = :key"),
            {"controlled": controlled, "key": key},
        )


def _drop_views() -> None:
    """A table cannot be replaced under a view."""
    for name in ("results", "predictions", "run_overview"):
        op.execute(f"DROP VIEW {name}")


def _create_views(results: str) -> None:
    for name, select in {
        "run_overview": RUN_OVERVIEW,
        "results": results,
        "predictions": PREDICTIONS,
    }.items():
        op.execute(f"CREATE VIEW {name} AS {select}")


RUN_OVERVIEW = """
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
"""

RESULTS_BEFORE = """
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
"""

RESULTS = """
SELECT r.uid AS run, e.name AS experiment, m.label AS model, p.text AS prompt,
  c.label AS condition, k.name AS metric, NULLIF(v.layer, -1) AS layer,
  NULLIF(v.head, -1) AS head, NULLIF(v.position, -1) AS position, v.value,
  v.trial, p.label, p.answer, o.label AS controls
FROM layer_results AS v
JOIN runs AS r ON r.id = v.run_id
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN trials AS t ON t.run_id = v.run_id AND t.trial = v.trial
JOIN prompts AS p ON p.id = t.prompt_id
JOIN conditions AS c ON c.id = t.condition_id
JOIN metrics AS k ON k.id = v.metric_id
LEFT JOIN conditions AS o ON o.id = c.controls_id
WHERE r.deleted_at IS NULL
"""

PREDICTIONS = """
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
"""
