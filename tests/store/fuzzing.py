"""What a notebook holds, row by row: to show that nothing has changed it."""

from typing import Any

import sqlalchemy as sa

from mlux.store import Store
from mlux.store.tables import Base


def everything(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, and the names of all tables and views."""
    with store.reading() as connection:
        tables = {
            name: sorted(map(tuple, connection.exec_driver_sql(f"SELECT * FROM {name}")), key=repr)
            for name in Base.metadata.tables
        }
        sqlite = connection.dialect.name == "sqlite"
        names = connection.exec_driver_sql(
            "SELECT name FROM sqlite_master"
            if sqlite
            else "SELECT relname FROM pg_class WHERE relname NOT LIKE 'pg_toast%%'"
        )
        return tables | {"names": sorted(map(tuple, names))}


PARTS = {
    "runs": """
      SELECT e.name, m.content_hash, s.name, s.content_hash, r.status, r.seed, r.batch_size, r.note,
        r.code_hash, r.git_commit, r.git_dirty, r.device, r.host, r.pid, r.platform, r.created_at,
        r.started_at, r.heartbeat_at, r.finished_at, r.deleted_at, r.error, r.seconds,
        r.peak_memory_bytes, r.hook_fires, r.memory_bytes, r.rerun_of
      FROM runs AS r JOIN experiments AS e ON e.id = r.experiment_id
      JOIN models AS m ON m.id = r.model_id JOIN prompt_sets AS s ON s.id = r.prompt_set_id
      WHERE r.id = :run""",
    "params": "SELECT name, value, number FROM run_params WHERE run_id = :run",
    "tags": "SELECT name, value FROM run_tags WHERE run_id = :run",
    "versions": "SELECT package, version FROM run_versions WHERE run_id = :run",
    "metrics": """
      SELECT v.place, k.name, k.unit, k.better, k.description FROM run_metrics AS v
      JOIN metrics AS k ON k.id = v.metric_id WHERE v.run_id = :run""",
    "events": "SELECT at, kind, message FROM run_events WHERE run_id = :run",
    "trials": """
      SELECT t.trial, p.content_hash, c.content_hash, c.label, o.content_hash, t.status, t.error,
        t.finished_at
      FROM trials AS t JOIN prompts AS p ON p.id = t.prompt_id
      JOIN conditions AS c ON c.id = t.condition_id
      LEFT JOIN conditions AS o ON o.id = c.controls_id WHERE t.run_id = :run""",
    "values": """
      SELECT k.name, v.trial, v.layer, v.head, v.position, v.value FROM layer_results AS v
      JOIN metrics AS k ON k.id = v.metric_id WHERE v.run_id = :run""",
    "predictions": """
      SELECT v.trial, v.layer, v.position, v.rank, w.token_id, w.text, v.logprob
      FROM token_predictions AS v JOIN tokens AS w ON w.id = v.token WHERE v.run_id = :run""",
    "tokens": """
      SELECT v.trial, v.role, v.position, w.token_id, w.text FROM trial_tokens AS v
      JOIN tokens AS w ON w.id = v.token WHERE v.run_id = :run""",
    "texts": "SELECT trial, sample, text, token_ids FROM generations WHERE run_id = :run",
    "files": "SELECT trial, name, kind, sha256, bytes FROM artifacts WHERE run_id = :run",
}
"""What a run is, in words that are the same in every notebook."""


def runs_of(store: Store) -> dict[str, dict[str, list[tuple[Any, ...]]]]:
    """Uid → all that is known of each run, ids aside."""
    with store.reading() as connection:
        keys = dict(connection.exec_driver_sql("SELECT uid, id FROM runs").all())
        return {
            uid: {
                part: sorted(map(tuple, connection.execute(sa.text(query), {"run": key})), key=repr)
                for part, query in PARTS.items()
            }
            for uid, key in keys.items()
        }


def claims_of(store: Store) -> dict[str, tuple[Any, ...]]:
    """Uid → each claim and the runs that it rests on."""
    query = """
    SELECT c.uid, r.uid, x.note FROM claim_runs AS x
    JOIN claims AS c ON c.id = x.claim_id JOIN runs AS r ON r.id = x.run_id
    """
    with store.reading() as connection:
        evidence = sorted(tuple(row) for row in connection.exec_driver_sql(query))
        claims = connection.exec_driver_sql(
            "SELECT uid, text, status, note, created_at, updated_at FROM claims"
        )
        return {
            uid: (*rest, [row[1:] for row in evidence if row[0] == uid]) for uid, *rest in claims
        }
