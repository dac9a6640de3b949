"""Bringing the runs of one notebook into another, on SQLite and PostgreSQL alike.

A run is the same by its uid, and what it refers to by content: nothing is lost, nothing doubled,
and to do it again changes nothing. Each run comes in one transaction, so whatever ends a merge
leaves whole runs. Of a run that both have, the trials that only the other has done are taken, and
what a person said of it here (tags, note, the bin) stays, and is filled up from there.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError

from mlux.errors import StoreError
from mlux.store.merge_rows import Copier, check_types, columns_of
from mlux.store.merge_run import Run, take
from mlux.store.merge_source import RefusedError, Source, check_tables, opened
from mlux.store.session import Store, insert


@dataclass(kw_only=True, slots=True)
class Merged:
    """What a merge did.

    Attributes:
        new: Uids of runs that were not here.
        completed: Uid → how many trials were taken, of runs that were here in part.
        same: Uids of runs that were here already.
        refused: What could not be taken → why; nothing of it was. A run is named by its uid.
    """

    new: list[str] = field(default_factory=list)
    completed: dict[str, int] = field(default_factory=dict)
    same: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def merge(target: Store, other: str | Path, *, runs: Collection[str] | None = None) -> Merged:
    """Brings the runs of another notebook here, those in its bin included.

    Args:
        target: The notebook that gets them, open for writing.
        other: The other one: a path or a URL. It is not changed, and may be of an older mlux.
        runs: Uids of the only runs to take, and of the claims those that rest on them; None for
            everything.

    Raises:
        StoreError: If the other one is no notebook of mlux, or is this one, or the disk refuses.
    """
    done = Merged()
    with opened(other) as (store, home), store.reading() as reading:
        _check_another(store, target)
        # A server's location is without its password.
        source = Source(reading, str(other) if store.path is not None else store.location)
        check_tables(source)
        for row in source.rows("SELECT * FROM runs ORDER BY id"):
            if runs is not None and row["uid"] not in runs:
                continue
            name = str(row["uid"])
            with _refusals(done, name):
                taken = take(Run(source=source, home=home, target=target, row=row))
                if taken is None:
                    done.new.append(name)
                elif taken:
                    done.completed[name] = taken
                else:
                    done.same.append(name)
        with _refusals(done, "self-tests of models"), target.writing() as connection:
            _take_checks(source, Copier(source, connection), connection)
        with _refusals(done, "claims"), target.writing() as connection:
            _take_claims(source, connection, everything=runs is None)
    return done


@contextmanager
def _refusals(done: Merged, what: str) -> Iterator[None]:
    """Notes why something could not be taken, and goes on."""
    try:
        yield
    except RefusedError as error:
        done.refused[what] = str(error)
    except (IntegrityError, DataError, InterfaceError, OverflowError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        done.refused[what] = f"It has what no notebook can hold: {reason}."


def _check_another(store: Store, target: Store) -> None:
    """Raises StoreError if the two are one."""
    if store.path is None or target.path is None:
        same = store.path is target.path and store.engine.url == target.engine.url
    else:
        same = store.path.samefile(target.path)
    if same:
        raise StoreError(f"{target.location} cannot be merged into itself.")


def _take_checks(source: Source, copier: Copier, connection: sa.Connection) -> None:
    """Self-tests that are newer than those of the same model here."""
    theirs = source.rows("SELECT * FROM model_checks")
    check_types("model_checks", theirs)
    known = copier.keys("models", {row["model_id"] for row in theirs})
    by_model: dict[int, list[dict[str, Any]]] = {}
    for row in theirs:
        by_model.setdefault(known[row["model_id"]], []).append(row)
    names = columns_of("model_checks")
    for model, rows in by_model.items():
        query = "SELECT max(checked_at) FROM model_checks WHERE model_id = :model"
        last = connection.execute(sa.text(query), {"model": model}).scalar()
        if last is None or last < max(row["checked_at"] for row in rows):
            gone = sa.text("DELETE FROM model_checks WHERE model_id = :model")
            connection.execute(gone, {"model": model})
            values = [tuple((row | {"model_id": model})[name] for name in names) for row in rows]
            insert(connection, "model_checks", ", ".join(names), values)


def _take_claims(source: Source, connection: sa.Connection, *, everything: bool) -> None:
    """Claims: of one that both have the later text stands, and its runs are those of both."""
    theirs = source.rows("SELECT * FROM claims")
    check_types("claims", theirs)
    evidence = source.rows(
        "SELECT c.uid AS claim, r.uid AS run, x.note FROM claim_runs AS x "
        "JOIN claims AS c ON c.id = x.claim_id JOIN runs AS r ON r.id = x.run_id"
    )
    here = {row.uid for row in connection.execute(sa.text("SELECT uid FROM runs"))}
    evidence = [row for row in evidence if row["run"] in here]
    rests_on_them = {row["claim"] for row in evidence}
    for claim in theirs:
        if everything or claim["uid"] in rests_on_them:
            connection.execute(_CLAIM, claim)
    for row in evidence:
        connection.execute(_EVIDENCE, row)


_CLAIM = sa.text("""
INSERT INTO claims (uid, text, status, note, created_at, updated_at)
VALUES (:uid, :text, :status, :note, :created_at, :updated_at)
ON CONFLICT (uid) DO UPDATE SET text = excluded.text, status = excluded.status,
  note = excluded.note, updated_at = excluded.updated_at
WHERE claims.updated_at < excluded.updated_at
""")
_EVIDENCE = sa.text("""
INSERT INTO claim_runs (claim_id, run_id, note)
SELECT c.id, r.id, :note FROM claims AS c, runs AS r WHERE c.uid = :claim AND r.uid = :run
ON CONFLICT (claim_id, run_id) DO NOTHING
""")
