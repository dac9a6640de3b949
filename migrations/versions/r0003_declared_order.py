"""A run's metrics keep the order in which its experiment declares them.

Frozen history: it imports nothing of mlux and never changes once released. Runs of before have
theirs in the order in which the database first saw each metric, since no other is known. r0002
cannot hold the order: after the way back and forward again it is that of before.
"""

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None

PLACES = """
SELECT run_id, metric_id, row_number() OVER (PARTITION BY run_id ORDER BY metric_id) - 1 AS place
FROM run_metrics
"""


def upgrade() -> None:
    """Gives each metric of a run its place."""
    if op.get_bind().dialect.name == "sqlite":
        _rebuild(
            PLACES,
            sa.Column("place", sa.Integer, nullable=False),
            sa.UniqueConstraint("run_id", "place", name="uq_run_metrics_run_id_place"),
            sa.CheckConstraint("place >= 0", name="ck_run_metrics_place_counts_from_0"),
        )
        return
    for change in (
        "ALTER TABLE run_metrics ADD COLUMN place INTEGER",
        f"UPDATE run_metrics AS r SET place = p.place FROM ({PLACES}) AS p "
        "WHERE p.run_id = r.run_id AND p.metric_id = r.metric_id",
        "ALTER TABLE run_metrics ALTER COLUMN place SET NOT NULL",
        "ALTER TABLE run_metrics ADD CONSTRAINT uq_run_metrics_run_id_place UNIQUE (run_id, place)",
        "ALTER TABLE run_metrics ADD CONSTRAINT ck_run_metrics_place_counts_from_0 "
        "CHECK (place >= 0)",
    ):
        op.execute(change)


def downgrade() -> None:
    """Goes back to r0002; each run keeps its metrics and loses their order."""
    if op.get_bind().dialect.name == "sqlite":
        _rebuild("SELECT run_id, metric_id FROM run_metrics")
    else:
        op.execute("ALTER TABLE run_metrics DROP COLUMN place")


def _rebuild(rows: str, *gain: sa.schema.SchemaItem) -> None:
    """Makes SQLite's table anew, since SQLite can add no constraint to one, and fills it."""
    op.create_table(
        "run_metrics_anew",
        sa.Column("run_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("metric_id", sa.Integer, nullable=False, autoincrement=False),
        *(item for item in gain if isinstance(item, sa.Column)),
        sa.PrimaryKeyConstraint("run_id", "metric_id", name="pk_run_metrics"),
        *(item for item in gain if not isinstance(item, sa.Column)),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name="fk_run_metrics_run_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["metric_id"], ["metrics.id"], name="fk_run_metrics_metric_id"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.execute(f"INSERT INTO run_metrics_anew {rows}")
    op.drop_table("run_metrics")
    op.rename_table("run_metrics_anew", "run_metrics")
