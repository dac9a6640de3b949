"""Runs that are there already: the same code, model, prompts, options and seed."""

from typing import TYPE_CHECKING

import sqlalchemy as sa

from mlux.store.session import Store

if TYPE_CHECKING:
    from mlux.store.records import RunSpec

_ALIKE = """
SELECT r.id, r.uid FROM runs AS r
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN prompt_sets AS p ON p.id = r.prompt_set_id
WHERE e.name = :experiment AND r.code_hash = :code AND m.content_hash = :model
  AND p.content_hash = :prompts AND r.seed = :seed
  AND r.status = 'done' AND r.deleted_at IS NULL
ORDER BY r.created_at DESC, r.id DESC
"""


def find_identical(store: Store, spec: "RunSpec") -> list[str]:
    """The uids of finished runs that would compute the same, the newest first.

    How many trials run at once, tags and notes do not count.
    """
    from mlux.store.creation import param_rows

    wanted = {(name, value) for name, value, _ in param_rows(spec)}
    values = {
        "experiment": spec.experiment,
        "code": spec.code_hash,
        "model": spec.model.content_hash,
        "prompts": spec.prompts.content_hash,
        "seed": spec.seed,
    }
    query = sa.text("SELECT name, value FROM run_params WHERE run_id = :run")
    found = []
    with store.reading() as connection:
        for key, uid in connection.execute(sa.text(_ALIKE), values).all():
            if {tuple(row) for row in connection.execute(query, {"run": key})} == wanted:
                found.append(uid)
    return found
