"""Prompt sets in the notebook: those of runs, and those that a person filed under a name."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mlux.errors import StoreError, UnknownNameError
from mlux.prompts import Prompt, PromptSet, load, shipped
from mlux.store.restore import restore_prompt_set
from mlux.store.session import Store


def file_prompt_set(store: Store, prompts: PromptSet) -> None:
    """Keeps a prompt set under its name, for runs to use; twice is once.

    Raises:
        StoreError: If the notebook, or mlux itself, has another set of that name.
    """
    from mlux.store.creation import put_prompt_set  # its tables take time that readers do not need

    if prompts.name in shipped():
        raise StoreError(
            f"A prompt set named {prompts.name!r} ships with mlux. Give another name: --name NAME"
        )
    with store.writing() as connection:
        keys = _keys(connection, prompts.name)
        if any(content != prompts.content_hash for _, content in keys):
            raise StoreError(
                f"The notebook has other prompts under the name {prompts.name!r}, and results may "
                "rest on them. Give another name: --name NAME"
            )
        put_prompt_set(connection, prompts)


def stored_prompt_set(store: Store, name: str) -> PromptSet:
    """The prompt set of this name; the newest, if runs used several.

    Raises:
        UnknownNameError: If there is none.
    """
    with store.reading() as connection:
        keys = _keys(connection, name)
        if not keys:
            known = connection.execute(sa.text("SELECT name FROM prompt_sets")).scalars().all()
            raise UnknownNameError("prompt set", name, [*shipped(), *known])
        return restore_prompt_set(connection, keys[-1][0])[1]


def list_prompt_sets(store: Store) -> list[dict[str, Any]]:
    """Name, number of prompts, description and roles of every set, in the order of filing."""
    roles = [field.name for field in fields(Prompt)]
    counts = ", ".join(f"count(p.{role}) AS {role}" for role in roles)
    query = sa.text(
        f"SELECT s.name, count(*) AS prompts, s.description, {counts} FROM prompt_sets AS s "
        "JOIN prompt_set_items AS i ON i.prompt_set_id = s.id JOIN prompts AS p "
        "ON p.id = i.prompt_id GROUP BY s.id, s.name, s.description ORDER BY s.id"
    )
    with store.reading() as connection:
        return [
            {key: row[key] for key in ("name", "prompts", "description")}
            | {"roles": " ".join(role for role in roles if row[role])}
            for row in connection.execute(query).mappings()
        ]


def find_prompt_set(reference: str, location: str) -> PromptSet:
    """A prompt set by what a person typed: shipped, a file, or filed in the notebook.

    Args:
        reference: As for `mlux.prompts.load`, or the name of a set in the notebook; `NAME:16` is
            its first 16 prompts.
        location: The notebook; it need not exist.

    Raises:
        UnknownNameError: If it is none of them.
        PromptError: If it is a file that holds no prompts.
    """
    try:
        return load(reference)
    except UnknownNameError as unknown:
        try:
            store = Store.open(location)
        except StoreError:
            if "://" in location or Path(location).exists():
                raise
            raise unknown from None  # without a notebook there are the shipped ones alone
    name, _, count = reference.rpartition(":")
    with store:
        if name and count.isdigit():
            return stored_prompt_set(store, name).first(int(count))
        return stored_prompt_set(store, reference)


def _keys(connection: sa.Connection, name: str) -> list[tuple[int, str]]:
    """Key and content hash of the sets of a name, oldest first."""
    query = sa.text("SELECT id, content_hash FROM prompt_sets WHERE name = :name ORDER BY id")
    return [(key, content) for key, content in connection.execute(query, {"name": name})]
