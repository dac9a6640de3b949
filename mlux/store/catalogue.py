"""What the notebook holds besides runs: its models, its size."""

from typing import Any

import sqlalchemy as sa

from mlux.errors import ModelError, UnknownNameError
from mlux.store import session
from mlux.store.reader import HASH_PREFIX
from mlux.store.session import Store


def list_models(store: Store) -> list[dict[str, Any]]:
    """Every model with runs in the notebook, the most used first."""
    query = """
    SELECT m.label AS model, m.model_type AS type, m.n_layers, m.n_heads, m.n_kv_heads, m.d_model,
      m.n_parameters, m.dtype, m.quant_bits, m.source, m.adapter_source AS adapter,
      m.content_hash, count(r.id) AS runs, max(r.created_at) AS last_run
    FROM models AS m LEFT JOIN runs AS r ON r.model_id = m.id AND r.deleted_at IS NULL
    GROUP BY m.id ORDER BY count(r.id) DESC, m.label
    """
    with store.reading() as connection:
        return [dict(row) for row in connection.execute(sa.text(query)).mappings()]


def show_model(store: Store, name_or_hash: str) -> dict[str, Any]:
    """Everything that is stored of one model, its tokenizer and its runs.

    Args:
        store: The notebook.
        name_or_hash: Its label or name, or at least six characters of its content hash.

    Raises:
        UnknownNameError: If there is none.
        ModelError: If there are several.
    """
    query = """
    SELECT m.*, t.name AS tokenizer, t.content_hash AS tokenizer_hash, t.chat_template_hash
    FROM models AS m JOIN tokenizers AS t ON t.id = m.tokenizer_id
    """
    with store.reading() as connection:
        models = [dict(row) for row in connection.execute(sa.text(query)).mappings()]
        found = [model for model in models if _is_meant(model, name_or_hash)]
        # A label is unique; the bare name may be shared.
        found = [model for model in found if model["label"] == name_or_hash] or found
        if not found:
            names = [model["label"] for model in models]
            raise UnknownNameError("model with runs", name_or_hash, names, "mlux models list")
        if len(found) > 1:
            labels = ", ".join(sorted(model["label"] for model in found))
            raise ModelError(f"{name_or_hash!r} may be any of: {labels}.")
        model = found[0]
        key = model.pop("id")
        del model["tokenizer_id"]
        runs = sa.text(
            "SELECT uid FROM runs WHERE model_id = :key AND deleted_at IS NULL ORDER BY id DESC"
        )
        checks = sa.text(
            "SELECT site, verdict, error, reason, checked_at FROM model_checks "
            "WHERE model_id = :key ORDER BY site"
        )
        return model | {
            "runs": list(connection.execute(runs, {"key": key}).scalars()),
            "checks": [dict(row) for row in connection.execute(checks, {"key": key}).mappings()],
        }


def _is_meant(model: dict[str, Any], name: str) -> bool:
    by_hash = len(name) >= HASH_PREFIX and model["content_hash"].startswith(name)
    return by_hash or name in (model["label"], model["name"])


def info(store: Store) -> dict[str, Any]:
    """Where the notebook is, how big it is, and how many rows each table has."""
    with store.reading() as connection:
        tables = sorted(sa.inspect(connection).get_table_names())
        counts = {
            table: connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in tables
            if table != "alembic_version"
        }
        if store.path is not None:
            size = store.path.stat().st_size
        else:
            size = connection.execute(
                sa.text("SELECT pg_database_size(current_database())")
            ).scalar_one()
        return {
            "location": store.location,
            "dialect": connection.dialect.name,
            "revision": session.HEAD,
            "newest_revision": session.HEAD,
            "bytes": size,
            "rows": counts,
        }


def artifact_summary(store: Store, uid: str) -> list[dict[str, Any]]:
    """The artifacts of a run by name: `name kind trials bytes`; 0 trials if of the whole run."""
    query = """
    SELECT a.name, a.kind, count(a.trial) AS trials, sum(a.bytes) AS bytes
    FROM artifacts AS a JOIN runs AS r ON r.id = a.run_id WHERE r.uid = :uid
    GROUP BY a.name, a.kind ORDER BY min(coalesce(a.trial, -1)), a.name, a.kind
    """
    with store.reading() as connection:
        found = connection.execute(sa.text(query), {"uid": uid}).mappings()
        return [dict(row) | {"bytes": int(row["bytes"])} for row in found]
