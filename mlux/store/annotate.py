"""What a person says of a run afterwards: its tags and its note."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from mlux.errors import ParameterError, UnknownNameError
from mlux.store.session import Store


def tag_run(
    store: Store, uid: str, tags: Mapping[str, str], *, remove: Sequence[str] = ()
) -> dict[str, str]:
    """Sets some tags of a run and removes others, all or none.

    Args:
        store: The notebook, open for writing.
        uid: The run.
        tags: Name → value; one that is there already gets the new value.
        remove: Names.

    Returns:
        The tags that the run has now.

    Raises:
        UnknownNameError: If there is no such run, or it lacks a tag that is to be removed.
        ParameterError: If a name is empty, set and removed at once, or no database can hold it.
    """
    check_tags(tags)
    if both := sorted(set(tags) & set(remove)):
        raise ParameterError(f"The tag {both[0]!r} is set and removed at once.")
    with store.writing() as connection:
        run = _run(connection, uid)
        for name in remove:
            gone = connection.execute(
                sa.text("DELETE FROM run_tags WHERE run_id = :run AND name = :name"),
                {"run": run, "name": name},
            )
            if not gone.rowcount:
                known = _tags(connection, run)
                raise UnknownNameError(f"tag of run {uid}", name, known, "It has no tags.")
        for name, value in tags.items():
            connection.execute(
                sa.text(
                    "INSERT INTO run_tags (run_id, name, value) VALUES (:run, :name, :value) "
                    "ON CONFLICT (run_id, name) DO UPDATE SET value = excluded.value"
                ),
                {"run": run, "name": name, "value": value},
            )
        return _tags(connection, run)


def check_tags(tags: Mapping[str, str], note: str | None = None) -> None:
    """Raises ParameterError if a tag has no name, or no database can hold it or the note."""
    for text in (*tags, *tags.values(), note or ""):
        _check_text(text)
    if "" in tags:
        raise ParameterError("A tag needs a name: NAME=VALUE.")


def note_run(store: Store, uid: str, text: str) -> None:
    """Replaces a run's note; an empty text removes it.

    Raises:
        UnknownNameError: If there is no such run.
        ParameterError: If no database can hold the text.
    """
    _check_text(text)
    with store.writing() as connection:
        connection.execute(
            sa.text("UPDATE runs SET note = :note WHERE id = :run"),
            {"note": text or None, "run": _run(connection, uid)},
        )


def _run(connection: sa.Connection, uid: str) -> int:
    query = sa.text("SELECT id FROM runs WHERE uid = :uid AND deleted_at IS NULL")
    found = connection.execute(query, {"uid": uid}).scalar()
    if found is None:
        raise UnknownNameError("run", uid, [], "List them with: mlux runs list")
    return int(found)


def _tags(connection: sa.Connection, run: int) -> dict[str, str]:
    query = sa.text("SELECT name, value FROM run_tags WHERE run_id = :run ORDER BY name")
    return dict(connection.execute(query, {"run": run}).all())


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise ParameterError(f"{text!r} is not text; tags and notes are.")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ParameterError(f"{text!r} has a character that no database can hold.")
