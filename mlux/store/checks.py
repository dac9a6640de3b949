"""The latest self-test of each model: what its certificate said, kept with the model."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from mlux.provenance import ModelIdentity
from mlux.store.creation import file_model
from mlux.store.session import Store, insert, now

COLUMNS = "model_id, site, verdict, error, reason, checked_at, versions"


def store_checks(
    store: Store,
    model: ModelIdentity,
    rows: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
) -> None:
    """Replaces a model's self-test by a newer one; the model is filed if it is new.

    Args:
        store: The notebook, open for writing.
        model: The model.
        rows: Lines with site, verdict, error (None where nothing was measured) and reason.
        versions: Of the packages that can change a number.
    """
    text = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    with store.writing() as connection:
        key, time = file_model(connection, model), now(connection)
        connection.execute(sa.text("DELETE FROM model_checks WHERE model_id = :key"), {"key": key})
        lines = [
            (key, row["site"], row["verdict"], row["error"], row["reason"], time, text)
            for row in rows
        ]
        insert(connection, "model_checks", COLUMNS, lines)


def failed_checks(store: Store, content_hash: str) -> dict[str, str]:
    """The sites that failed in a model's latest self-test, with the reasons; empty without one.

    Args:
        store: The notebook.
        content_hash: The model's identity.
    """
    query = """
    SELECT c.site, c.reason, c.error FROM model_checks AS c JOIN models AS m ON m.id = c.model_id
    WHERE m.content_hash = :hash AND c.verdict = 'failed'
    """
    with store.reading() as connection:
        found = connection.execute(sa.text(query), {"hash": content_hash}).all()
    return {
        row.site: row.reason or f"an error of {row.error:.1e}, more than rounding explains"
        for row in found
    }
