"""Finding and listing runs, and reading one whole.

Plain SQL on the driver's connection, without table classes: `mlux runs list` must not pay for them.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from mlux.errors import RunError, UnknownNameError
from mlux.limits import check as check_range
from mlux.store.liveness import mark_crashed
from mlux.store.session import Store

if TYPE_CHECKING:
    from mlux.store.records import StoredRun

HASH_PREFIX = 6
"""From this length on, the start of a content hash names a model."""

_LATEST = re.compile(r"latest(?::(?P<experiment>[^~]+))?(?:~(?P<back>\d+))?")

STATUSES = ("queued", "running", "done", "failed", "crashed")


def resolve_run(store: Store, reference: str) -> str:
    """The uid of the run that a person means.

    Args:
        store: The notebook.
        reference: A uid, a unique prefix of one, `latest`, or `latest:EXPERIMENT`; with `~1`
            behind `latest` or the experiment the one before, as in git.

    Raises:
        UnknownNameError: If there is no such run or experiment.
        RunError: If a prefix is of several runs, or there is no run yet.
    """
    with store.reading() as connection:
        if match := _LATEST.fullmatch(reference):
            # Larger than any number of runs, and than what the driver takes.
            back = min(int((match["back"] or "").lstrip("0")[:10] or 0), 10**9)
            return _latest(connection, store.location, match["experiment"] or "", back)
        query = (
            "SELECT r.uid, e.name, r.created_at FROM runs AS r "
            "JOIN experiments AS e ON e.id = r.experiment_id "
            "WHERE r.deleted_at IS NULL AND substr(r.uid, 1, :n) = :prefix "
            "ORDER BY r.created_at DESC, r.id DESC"
        )
        prefix = reference.lower()
        found = connection.execute(sa.text(query), {"prefix": prefix, "n": len(prefix)}).all()
        if len(found) == 1 and prefix:
            return str(found[0][0])
        if not found or not prefix:
            uids = connection.execute(sa.text("SELECT uid FROM runs WHERE deleted_at IS NULL"))
            hint = "List them with: mlux runs list"
            raise UnknownNameError("run", reference, uids.scalars(), hint)
    several = ", ".join(f"{uid} ({name}, {created[:16]})" for uid, name, created in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    raise RunError(f"{reference!r} is the start of {len(found)} runs: {several}{more}.")


def _latest(connection: sa.Connection, location: str, experiment: str, back: int) -> str:
    query = (
        "SELECT r.uid FROM runs AS r JOIN experiments AS e ON e.id = r.experiment_id "
        "WHERE r.deleted_at IS NULL AND (:name = '' OR e.name = :name) "
        "ORDER BY r.created_at DESC, r.id DESC LIMIT 1 OFFSET :back"
    )
    uid = connection.execute(sa.text(query), {"name": experiment, "back": back}).scalar()
    if uid is not None:
        return str(uid)
    if experiment:
        names = connection.execute(sa.text("SELECT name FROM experiments")).scalars().all()
        if experiment not in names:
            raise UnknownNameError("experiment with runs", experiment, names)
    of = f" of {experiment}" if experiment else ""
    if back:
        raise RunError(f"There are not {back + 1} runs{of} in {location}.")
    raise RunError(f"There is no run{of} in {location} yet. Run one: mlux demo")


def list_runs(
    store: Store,
    *,
    experiment: str | None = None,
    model: str | None = None,
    status: str | None = None,
    tag: str | Mapping[str, str] | None = None,
    where: str | None = None,
    limit: int | None = None,
    before: str | None = None,
    deleted: bool = False,
) -> list[dict[str, Any]]:
    """The runs that are not deleted, newest first, each as a dict.

    Args:
        store: The notebook.
        experiment: Only of this experiment.
        model: Only on this model: its name, its label, or the start of its content hash.
        status: Only in this state.
        tag: Only with this tag: `NAME`, `NAME=VALUE`, or a mapping of names to values.
        where: Only those that fulfil a condition, as in `params.top_k > 3 and tags.paper = 'fv'`
            (the language of `mlux.store.where`).
        limit: At most this many.
        before: Only those that were filed before the run of this uid: the next page after it.
        deleted: Those in the bin instead.

    Returns:
        Dicts with `run experiment model prompts status trials done failed created started
        finished seconds seed note error params tags`; times are ISO-8601 text in UTC.

    Raises:
        UnknownNameError: If no run has that experiment, model or status.
        ParameterError: If the limit is not a number of runs, or the condition cannot be read.
    """
    check_range("limit", limit)
    unmarked = mark_crashed(store)
    conditions = [f"r.deleted_at IS {'NOT NULL' if deleted else 'NULL'}"]
    values: dict[str, Any] = {"unmarked": sorted(unmarked)}
    if before is not None:
        # By key, not by OFFSET: a page costs the same wherever it begins.
        conditions.append("r.id < (SELECT b.id FROM runs AS b WHERE b.uid = :before)")
        values["before"] = before
    if experiment is not None:
        conditions.append("e.name = :experiment")
        values["experiment"] = experiment
    if model is not None:
        conditions.append(
            "(m.name = :model OR m.label = :model OR "
            "(length(:model) >= :least AND substr(m.content_hash, 1, length(:model)) = :model))"
        )
        values |= {"model": model, "least": HASH_PREFIX}
    if status is not None:
        if status not in STATUSES:
            raise UnknownNameError("status", status, STATUSES)
        conditions.append(f"{_STATUS} = :status")
        values["status"] = status
    for number, (name, value) in enumerate(_tags(tag).items()):
        same = "" if value is None else f"AND t.value = :tag_value_{number}"
        conditions.append(
            "EXISTS (SELECT 1 FROM run_tags AS t "
            f"WHERE t.run_id = r.id AND t.name = :tag_{number} {same})"
        )
        values |= {f"tag_{number}": name}
        if value is not None:
            values[f"tag_value_{number}"] = value
    # Typed, because PostgreSQL takes an empty list for one of integers.
    unmarked_runs = sa.bindparam("unmarked", expanding=True, type_=sa.Text())
    with store.reading() as connection:
        if where is not None:
            from mlux.store.where_sql import compile_where

            test, tested = compile_where(connection, where, _STATUS)
            conditions.append(test)
            values |= tested
        query = f"{_LIST} WHERE {' AND '.join(conditions)} ORDER BY r.created_at DESC, r.id DESC"
        if limit is not None:
            query += " LIMIT :limit"
            values["limit"] = limit
        statement = sa.text(query).bindparams(unmarked_runs)
        rows = [dict(row) for row in connection.execute(statement, values).mappings()]
        if not rows:
            _check_names(connection, experiment=experiment, model=model)
        _add_params_and_tags(connection, rows)
    return rows


_STATUS = "CASE WHEN r.uid IN :unmarked THEN 'crashed' ELSE r.status END"
_LIST = f"""
SELECT r.id, r.uid AS run, e.name AS experiment, m.label AS model, s.name AS prompts,
  {_STATUS} AS status,
  (SELECT count(*) FROM trials AS t WHERE t.run_id = r.id) AS trials,
  (SELECT count(*) FROM trials AS t WHERE t.run_id = r.id AND t.status = 'done') AS done,
  (SELECT count(*) FROM trials AS t WHERE t.run_id = r.id AND t.status = 'failed') AS failed,
  r.created_at AS created, r.started_at AS started, r.finished_at AS finished, r.seconds,
  r.seed, r.note, r.error
FROM runs AS r
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN prompt_sets AS s ON s.id = r.prompt_set_id
"""


def _tags(tag: str | Mapping[str, str] | None) -> dict[str, str | None]:
    if tag is None:
        return {}
    if isinstance(tag, str):
        name, equals, value = tag.partition("=")
        return {name: value if equals else None}
    return dict(tag)


def _check_names(connection: sa.Connection, *, experiment: str | None, model: str | None) -> None:
    """Raises UnknownNameError for a filter that no run can pass."""
    if experiment is not None:
        names = connection.execute(sa.text("SELECT name FROM experiments")).scalars().all()
        if experiment not in names:
            raise UnknownNameError("experiment with runs", experiment, names)
    if model is not None:
        query = "SELECT name, label, content_hash FROM models"
        models = connection.execute(sa.text(query)).all()
        names = [name for row in models for name in row[:2]]
        by_hash = len(model) >= HASH_PREFIX and any(row[2].startswith(model) for row in models)
        if model not in names and not by_hash:
            raise UnknownNameError("model with runs", model, names)


def _add_params_and_tags(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
    ids = [row.pop("id") for row in rows]
    params = pairs(connection, "SELECT run_id, name, value FROM run_params", ids)
    tags = pairs(connection, "SELECT run_id, name, value FROM run_tags", ids)
    for key, row in zip(ids, rows, strict=True):
        row["params"] = {name: param(value) for name, value in params.get(key, [])}
        row["tags"] = dict(tags.get(key, []))


def param(stored: str) -> Any:
    """An option from its JSON; one that was damaged as it stands there, for a listing to go on."""
    try:
        return json.loads(stored)
    except ValueError:
        return stored


def pairs(
    connection: sa.Connection, select: str, runs: Iterable[int]
) -> dict[int, list[tuple[str, str]]]:
    """Run's key → its rows of a `SELECT run_id, a, b`."""
    query = sa.text(f"{select} WHERE run_id IN :runs ORDER BY 1, 2").bindparams(
        sa.bindparam("runs", expanding=True)
    )
    keys = list(runs)
    found: dict[int, list[tuple[str, str]]] = {}
    for start in range(0, len(keys), 30_000):
        for run, a, b in connection.execute(query, {"runs": keys[start : start + 30_000]}):
            found.setdefault(run, []).append((a, b))
    return found


def load_run(store: Store, uid: str) -> "StoredRun":
    """A run with all that is needed to show or resume it; its results stay where they are.

    Raises:
        UnknownNameError: If there is no run of exactly this uid.
    """
    unmarked = mark_crashed(store)
    with store.reading() as connection:
        row = connection.execute(sa.text(_RUN), {"uid": uid}).mappings().one_or_none()
        if row is None:
            raise UnknownNameError("run", uid, [], "List them with: mlux runs list")
        # Its records are of the rest of mlux, which a listing does not need.
        from mlux.store.restore import stored_run

        return stored_run(connection, dict(row), crashed=uid in unmarked)


_RUN = """
SELECT r.*, e.name AS experiment, e.description AS experiment_description, e.paper
FROM runs AS r JOIN experiments AS e ON e.id = r.experiment_id WHERE r.uid = :uid
"""
