"""In what two or more runs were set up differently."""

import json
from typing import Any

import pandas as pd
import sqlalchemy as sa

from mlux.store import frames
from mlux.store.frames import Database, Runs
from mlux.store.reader import param

_SETUP = """
SELECT r.uid, e.name AS experiment, m.label AS model, m.dtype, m.quant_bits, m.adapter_source,
  s.name AS prompts, s.content_hash AS prompts_hash, r.seed, r.code_hash, r.git_commit, r.device
FROM runs AS r
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN prompt_sets AS s ON s.id = r.prompt_set_id
WHERE r.id IN :runs
"""
_PAIRS = {
    "param": "SELECT r.uid, p.name, p.value FROM run_params AS p JOIN runs AS r ON r.id = p.run_id",
    "tag": "SELECT r.uid, p.name, p.value FROM run_tags AS p JOIN runs AS r ON r.id = p.run_id",
    "version": "SELECT r.uid, p.package, p.version FROM run_versions AS p "
    "JOIN runs AS r ON r.id = p.run_id",
}
_KINDS = ("setup", *_PAIRS)


def params_diff(runs: Runs, *, everything: bool = False, db: Database = None) -> pd.DataFrame:
    """In what runs were set up differently: params, model, prompts, seed, code, tags, versions.

    Args:
        runs: Two runs or more.
        everything: Whether to show what is the same in all of them, too.
        db: The notebook.

    Returns:
        Indexed by `kind` (`setup`, `param`, `tag`, `version`) and `name`, one column a run in the
        order asked for, named by uid. Values are as they were given (numbers, texts, lists); None
        where a run has no such thing.

    Raises:
        UnknownNameError: If there is no such run.

    Example:
        >>> runs = ["latest:logit_lens~1", "latest:logit_lens"]
        >>> ("setup", "model") in params_diff(runs, db="mlux.db.example").index
        True
    """
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        found = _setup(connection, list(keys.values()))
        for kind, query in _PAIRS.items():
            found |= _pairs(connection, kind, query, list(keys.values()))
    shown = {
        place: row
        for place, row in found.items()
        if everything or len({json.dumps(row.get(uid)) for uid in keys}) > 1
    }
    order = sorted(shown, key=lambda place: _KINDS.index(place[0]))  # stable: names stay sorted
    index = pd.MultiIndex.from_tuples(order or [], names=["kind", "name"]) if order else None
    if index is None:
        index = pd.MultiIndex.from_arrays([[], []], names=["kind", "name"])
    columns = {uid: [shown[place].get(uid) for place in order] for uid in keys}
    table = pd.DataFrame(columns, index=index, dtype=object)
    table.columns.name = "run"
    return table


def _setup(connection: sa.Connection, keys: list[int]) -> dict[tuple[str, str], dict[str, Any]]:
    query = sa.text(_SETUP).bindparams(sa.bindparam("runs", expanding=True))
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in connection.execute(query, {"runs": keys}).mappings():
        for name, value in row.items():
            if name != "uid":
                found.setdefault(("setup", name), {})[row["uid"]] = value
    return found


def _pairs(
    connection: sa.Connection, kind: str, query: str, keys: list[int]
) -> dict[tuple[str, str], dict[str, Any]]:
    statement = sa.text(f"{query} WHERE r.id IN :runs ORDER BY 2").bindparams(
        sa.bindparam("runs", expanding=True)
    )
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for uid, name, value in connection.execute(statement, {"runs": keys}):
        found.setdefault((kind, name), {})[uid] = param(value) if kind == "param" else value
    return found
