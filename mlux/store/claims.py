"""Claims: what somebody says the runs show, kept beside the numbers that speak for or against it.

Plain SQL on SQLAlchemy's connection, the same on SQLite and PostgreSQL.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from mlux.errors import ParameterError, RunError, UnknownNameError
from mlux.store.reader import resolve_run
from mlux.store.session import Store, now

STATUSES = ("supported", "refuted", "open")

# That of run ids: no letter that reads like another.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_UID_LENGTH = 10
_LONGEST = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """A run that a claim rests on.

    Attributes:
        run: Its uid.
        deleted: Whether the run is in the bin.
    """

    run: str
    experiment: str
    model: str
    deleted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What somebody says the runs show.

    Attributes:
        uid: Its name.
        status: `supported`, `refuted` or `open`.
        created: When it was made; ISO-8601 in UTC.
        updated: When it was last changed.
    """

    uid: str
    text: str
    status: str
    note: str | None
    created: str
    updated: str
    evidence: tuple[Evidence, ...]


def add_claim(
    store: Store,
    text: str,
    *,
    runs: Sequence[str] = (),
    status: str = "open",
    note: str | None = None,
) -> Claim:
    """Files a claim.

    Args:
        store: The notebook, open for writing.
        text: What is claimed.
        runs: The runs that speak for or against it, as `resolve_run` takes them.
        status: `supported`, `refuted` or `open`.
        note: What else there is to say, such as what would change the verdict.

    Raises:
        ParameterError: If the text is empty or too long, or the status is unknown.
        UnknownNameError: If there is no such run.

    Example:
        >>> import tempfile
        >>> from mlux.store import Store
        >>> folder = tempfile.TemporaryDirectory()
        >>> with Store.open(f"{folder.name}/mlux.db", write=True) as store:
        ...     claim = add_claim(store, "Induction heads are in layer 2")
        ...     edit_claim(store, claim.uid, status="supported").status
        'supported'
        >>> folder.cleanup()
    """
    uid = "".join(secrets.choice(_ALPHABET) for _ in range(_UID_LENGTH))
    values = {
        "uid": uid,
        "text": _text(text),
        "status": _status(status),
        "note": note and _text(note),
    }
    uids = [resolve_run(store, run) for run in runs]
    query = (
        "INSERT INTO claims (uid, text, status, note, created_at, updated_at) "
        "VALUES (:uid, :text, :status, :note, :now, :now)"
    )
    with store.writing() as connection:
        connection.execute(sa.text(query), values | {"now": now(connection)})
        _link(connection, uid, uids)
    return load_claim(store, uid)


def edit_claim(
    store: Store,
    reference: str,
    *,
    text: str | None = None,
    status: str | None = None,
    note: str | None = None,
    add_runs: Sequence[str] = (),
    remove_runs: Sequence[str] = (),
) -> Claim:
    """Changes what is given of a claim, and leaves the rest.

    Args:
        store: The notebook, open for writing.
        reference: The claim's uid, or the start of it.
        text: The new wording.
        status: The new verdict.
        note: The new note; an empty one takes it away.
        add_runs: More evidence.
        remove_runs: Evidence to take away.

    Raises:
        UnknownNameError: If there is no such claim or run.
        ParameterError: As `add_claim`, or if nothing is to be changed.
        RunError: If a run to take away is not evidence of the claim.
    """
    uid = resolve_claim(store, reference)
    changes = {
        "text": None if text is None else _text(text),
        "status": None if status is None else _status(status),
        "note": note and _text(note),
    }
    changed = {name for name, value in (("text", text), ("status", status), ("note", note)) if
               value is not None}  # fmt: skip
    if not (changed or add_runs or remove_runs):
        raise ParameterError("Nothing is changed: give a text, a status, a note or runs.")
    added = [resolve_run(store, run) for run in add_runs]
    removed = [resolve_run(store, run) for run in remove_runs]
    known = {item.run for item in load_claim(store, uid).evidence}
    if strangers := [run for run in removed if run not in known]:
        raise RunError(f"Run {strangers[0]} is no evidence of claim {uid}.")
    sets = ", ".join(f"{name} = :{name}" for name in ("updated_at", *sorted(changed)))
    with store.writing() as connection:
        statement = sa.text(f"UPDATE claims SET {sets} WHERE uid = :uid")
        given = {name: changes[name] or None for name in changed}
        connection.execute(statement, {"uid": uid, "updated_at": now(connection), **given})
        _link(connection, uid, added)
        query = "DELETE FROM claim_runs WHERE claim_id = :claim AND run_id = :run"
        for run in removed:
            keys = {"claim": _key(connection, "claims", uid), "run": _key(connection, "runs", run)}
            connection.execute(sa.text(query), keys)
    return load_claim(store, uid)


def delete_claim(store: Store, reference: str) -> Claim:
    """Deletes a claim for good; its runs stay. Returns what it was.

    Raises:
        UnknownNameError: If there is no such claim.
    """
    claim = load_claim(store, resolve_claim(store, reference))
    with store.writing() as connection:
        connection.execute(sa.text("DELETE FROM claims WHERE uid = :uid"), {"uid": claim.uid})
    return claim


def load_claim(store: Store, reference: str) -> Claim:
    """One claim with its evidence.

    Raises:
        UnknownNameError: If there is no such claim.
    """
    uid = resolve_claim(store, reference)
    return next(claim for claim in list_claims(store) if claim.uid == uid)


def list_claims(
    store: Store, *, runs: Iterable[str] | None = None, status: str | None = None
) -> list[Claim]:
    """The claims with their evidence, oldest first.

    Args:
        store: The notebook.
        runs: Only those that rest on at least one of these runs, given by uid.
        status: Only those with this status.

    Raises:
        ParameterError: If the status is unknown.
    """
    with store.reading() as connection:
        rows = connection.execute(sa.text(_CLAIMS)).mappings().all()
        evidence: dict[int, list[Evidence]] = {}
        for claim, *rest in connection.execute(sa.text(_EVIDENCE)):
            run, experiment, model, deleted = rest
            found = Evidence(run=run, experiment=experiment, model=model, deleted=bool(deleted))
            evidence.setdefault(claim, []).append(found)
    claims = [_claim(dict(row), evidence.get(row["id"], [])) for row in rows]
    if status is not None:
        claims = [claim for claim in claims if claim.status == _status(status)]
    if runs is not None:
        wanted = set(runs)
        claims = [claim for claim in claims if wanted & {item.run for item in claim.evidence}]
    return claims


_CLAIMS = "SELECT id, uid, text, status, note, created_at, updated_at FROM claims ORDER BY id"
_EVIDENCE = """
SELECT c.claim_id, r.uid, e.name, m.label, CASE WHEN r.deleted_at IS NULL THEN 0 ELSE 1 END
FROM claim_runs AS c
JOIN runs AS r ON r.id = c.run_id
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
ORDER BY c.claim_id, r.id
"""


def _claim(row: dict[str, Any], evidence: Sequence[Evidence]) -> Claim:
    return Claim(
        uid=row["uid"],
        text=row["text"],
        status=row["status"],
        note=row["note"],
        created=row["created_at"],
        updated=row["updated_at"],
        evidence=tuple(evidence),
    )


def resolve_claim(store: Store, reference: str) -> str:
    """The uid of the claim that a person means: a uid, or a unique start of one.

    Raises:
        UnknownNameError: If there is no such claim.
        ParameterError: If it is the start of several.
    """
    with store.reading() as connection:
        uids = [str(uid) for uid in connection.execute(sa.text("SELECT uid FROM claims")).scalars()]
    prefix = reference.lower()
    found = [uid for uid in uids if prefix and uid.startswith(prefix)]
    if not found:
        raise UnknownNameError("claim", reference, uids, "List them with: mlux claim list")
    if len(found) > 1:
        raise ParameterError(
            f"{reference!r} is the start of {len(found)} claims: {', '.join(found[:5])}."
        )
    return found[0]


def _link(connection: sa.Connection, claim: str, runs: Iterable[str]) -> None:
    """Makes runs evidence of a claim; those that are already stay."""
    query = "INSERT INTO claim_runs (claim_id, run_id) VALUES (:claim, :run) ON CONFLICT DO NOTHING"
    key = _key(connection, "claims", claim)
    for run in dict.fromkeys(runs):
        connection.execute(sa.text(query), {"claim": key, "run": _key(connection, "runs", run)})


def _key(connection: sa.Connection, table: str, uid: str) -> int:
    found = connection.execute(sa.text(f"SELECT id FROM {table} WHERE uid = :uid"), {"uid": uid})
    return int(found.scalar_one())


def _status(status: str) -> str:
    if status not in STATUSES:
        raise ParameterError(f"status is {status!r}; give one of {', '.join(STATUSES)}.")
    return status


def _text(text: str) -> str:
    """The text as it is stored: not empty, of a length that a person reads, and UTF-8."""
    stripped = text.strip().replace("\0", "")
    if not stripped:
        raise ParameterError("A claim needs a text that is not empty.")
    if len(stripped) > _LONGEST:
        raise ParameterError(
            f"This text has {len(stripped)} characters; a claim has at most {_LONGEST}."
        )
    return stripped.encode("utf-8", "replace").decode()
