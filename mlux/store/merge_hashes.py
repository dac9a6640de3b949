"""What is known by a hash is hashed again: a row that was altered is not taken for another's."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from mlux.prompts import Prompt
from mlux.provenance import ModelIdentity, TokenizerIdentity
from mlux.store.merge_source import RefusedError, Source


def check(source: Source, table: str, row: Mapping[str, Any]) -> None:
    """Raises RefusedError if a row that others refer to is not what its hash says it is."""
    if table not in _HASHES:
        return
    try:
        true = _HASHES[table](source, row)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise RefusedError(
            f"{source.location} is damaged: row {row['id']} of {table} is no such thing: {error}."
        ) from error
    if true != row["identity_hash" if table == "tokenizers" else "content_hash"]:
        raise RefusedError(
            f"{source.location} was altered: row {row['id']} of {table} is not what its hash says."
        )


def model(source: Source, row: Mapping[str, Any]) -> ModelIdentity:
    """A model's identity from its row."""
    (tokenizer,) = source.by_id("tokenizers", [row["tokenizer_id"]])
    identity = TokenizerIdentity(**_plain(tokenizer, "identity_hash"))
    return ModelIdentity(**_plain(row, "content_hash", "label", "tokenizer_id"), tokenizer=identity)


def _model_hash(source: Source, row: Mapping[str, Any]) -> str:
    return model(source, row).content_hash


def _plain(row: Mapping[str, Any], *without: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("id", *without)}


def _prompt_hash(source: Source, row: Mapping[str, Any]) -> str:
    values = _plain(row, "content_hash")
    if values["token_ids"] is not None:
        values["token_ids"] = tuple(map(int, values["token_ids"].split()))
    return Prompt(**values).content_hash


def _set_hash(source: Source, row: Mapping[str, Any]) -> str:
    query = (
        "SELECT p.content_hash FROM prompt_set_items AS i JOIN prompts AS p ON p.id = i.prompt_id "
        "WHERE i.prompt_set_id = :key ORDER BY i.position"
    )
    hashes = [part["content_hash"] for part in source.rows(query, key=row["id"])]
    return sha256("".join(hashes).encode()).hexdigest()


def _condition_hash(source: Source, row: Mapping[str, Any]) -> str:
    values = source.rows(
        "SELECT name, value FROM condition_values WHERE condition_id = :key", key=row["id"]
    )
    condition = {part["name"]: part["value"] for part in values}
    return sha256(json.dumps(condition, sort_keys=True).encode()).hexdigest()


def _tokenizer_hash(source: Source, row: Mapping[str, Any]) -> str:
    values = _plain(row, "identity_hash")
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


_HASHES = {
    "prompts": _prompt_hash,
    "prompt_sets": _set_hash,
    "conditions": _condition_hash,
    "tokenizers": _tokenizer_hash,
    "models": _model_hash,
}
TABLES = tuple(_HASHES)
"""What is known by a hash."""
