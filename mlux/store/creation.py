"""Filing a run before it starts: its rows and all that they refer to, in one transaction."""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mlux.errors import RunError
from mlux.prompts import Prompt, PromptSet
from mlux.provenance import Environment, ModelIdentity, TokenizerIdentity
from mlux.results import Metric
from mlux.store.liveness import record_event
from mlux.store.records import RunSpec, TrialSpec
from mlux.store.session import Store, insert, now

# Crockford's base 32: no letter that reads like another, nor any word such as `latest`.
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
UID_LENGTH = 12

CONTROL = "control"
"""The name in a condition that makes it a control of the condition without it."""


def create_run(store: Store, spec: RunSpec) -> str:
    """Files a run with all its trials pending.

    Returns:
        The run's uid.

    Raises:
        RunError: If the same prompt and condition are planned twice, or nothing is planned.
    """
    uid = "".join(secrets.choice(ALPHABET) for _ in range(UID_LENGTH))
    _check(spec)
    with store.writing() as connection:
        run = _insert_run(connection, spec, uid)
        put_params(connection, run, spec)
        put_versions(connection, run, spec.environment)
        insert(
            connection,
            "run_metrics",
            "run_id, metric_id, place",
            [(run, _metric(connection, metric), at) for at, metric in enumerate(spec.metrics)],
        )
        _put_trials(connection, run, spec)
        record_event(connection, uid, "created", f"{len(spec.trials)} trials")
        if spec.unread:
            message = f"mlx-lm does not read {'; '.join(spec.unread)}"
            record_event(connection, uid, "unread", message)
    return uid


def _check(spec: RunSpec) -> None:
    if not spec.trials:
        raise RunError(f"{spec.experiment} has no trials on {spec.prompts.name!r}.")
    keys = {(t.prompt, _condition_hash(t.condition)) for t in spec.trials}
    if len(keys) < len(spec.trials):
        raise RunError(f"{spec.experiment} plans the same prompt and condition twice.")
    names = [metric.name for metric in spec.metrics]
    if len(set(names)) < len(names):
        raise RunError(f"{spec.experiment} declares a metric twice: {', '.join(names)}.")


def _insert_run(connection: sa.Connection, spec: RunSpec, uid: str) -> int:
    environment = spec.environment
    experiment = _put(
        connection,
        "experiments",
        {"name": spec.experiment},
        {"description": spec.description, "paper": spec.paper},
    )
    values = {
        "uid": uid,
        "experiment_id": experiment,
        "model_id": file_model(connection, spec.model),
        "prompt_set_id": put_prompt_set(connection, spec.prompts),
        "status": "queued",
        "seed": spec.seed,
        "batch_size": spec.batch_size,
        "memory_bytes": spec.memory_bytes,
        "rerun_of": spec.rerun_of,
        "note": spec.note,
        "code_hash": spec.code_hash,
        "created_at": now(connection),
        **environment_columns(environment),
    }
    return _put(connection, "runs", {"uid": uid}, values)


def environment_columns(environment: Environment) -> dict[str, Any]:
    """The columns of `runs` that say where it ran; the process is that of `RunWriter.start`."""
    dirty = environment.git_dirty
    return {
        "device": environment.device,
        "host": environment.host,
        "platform": environment.platform,
        "git_commit": environment.git_commit,
        "git_dirty": None if dirty is None else int(dirty),
    }


def put_params(connection: sa.Connection, run: int, spec: RunSpec) -> None:
    """Files the experiment's options and the tags."""
    params = [(run, *row) for row in param_rows(spec)]
    insert(connection, "run_params", "run_id, name, value, number", params)
    tags = [(run, name, value) for name, value in spec.tags.items()]
    insert(connection, "run_tags", "run_id, name, value", tags)


def param_rows(spec: RunSpec) -> list[tuple[str, str, float | None]]:
    """Each option's name, its value as JSON, and the value where it is a number."""
    rows = []
    for name, value in spec.params.items():
        plain = value if isinstance(value, str | int | float | bool | None) else list(value)
        is_number = isinstance(plain, int | float) and not isinstance(plain, bool)
        rows.append((name, json.dumps(plain), float(plain) if is_number else None))  # type: ignore[arg-type] # checked to be a number
    return rows


def put_versions(connection: sa.Connection, run: int, environment: Environment) -> None:
    """Files the versions of the packages, in place of those of an earlier start."""
    connection.execute(sa.text("DELETE FROM run_versions WHERE run_id = :run"), {"run": run})
    rows = [(run, package, version) for package, version in environment.versions.items()]
    insert(connection, "run_versions", "run_id, package, version", rows)


def _put_trials(connection: sa.Connection, run: int, spec: RunSpec) -> None:
    prompts = _prompt_ids(connection, spec.prompts.prompts)
    conditions = _conditions(connection, spec.trials)
    rows = [
        (
            run,
            number,
            prompts[spec.prompts.prompts[trial.prompt].content_hash],
            conditions[_condition_hash(trial.condition)],
            "pending",
        )
        for number, trial in enumerate(spec.trials)
    ]
    insert(connection, "trials", "run_id, trial, prompt_id, condition_id, status", rows)


def _put(
    connection: sa.Connection,
    table: str,
    key: Mapping[str, Any],
    values: Mapping[str, Any] | None = None,
) -> int:
    """The id of the row with this key, which now has these values."""
    row = {**key, **(values or {})}
    # A row that is there has to be updated, if only to itself, for RETURNING to give its id.
    changed = ", ".join(f"{column} = excluded.{column}" for column in values or key)
    statement = (
        f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{c}' for c in row)}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed} RETURNING id"
    )
    found: int = connection.execute(sa.text(statement), row).scalar_one()
    return found


def _metric(connection: sa.Connection, metric: Metric) -> int:
    return _put(connection, "metrics", asdict(metric))


def _tokenizer(connection: sa.Connection, tokenizer: TokenizerIdentity) -> int:
    values = asdict(tokenizer)
    identity = sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return _put(connection, "tokenizers", {"identity_hash": identity}, values)


def file_model(connection: sa.Connection, model: ModelIdentity) -> int:
    """The model's id. Where it was found is refreshed, so that a resume looks there first."""
    values: dict[str, Any] = asdict(model)
    values["tokenizer_id"] = _tokenizer(connection, model.tokenizer)
    del values["tokenizer"]
    known = connection.execute(
        sa.text("SELECT label FROM models WHERE content_hash = :hash"), {"hash": model.content_hash}
    ).scalar()
    values["label"] = known or free_label(connection, model)
    return _put(connection, "models", {"content_hash": model.content_hash}, values)


def free_label(connection: sa.Connection, model: ModelIdentity) -> str:
    """The model's name, with what tells it apart from the others of that name."""
    query = "SELECT label, adapter_hash, quant_bits, dtype FROM models WHERE name = :name"
    others = connection.execute(sa.text(query), {"name": model.name}).all()
    if not others:
        candidates = [model.name]
    else:
        traits = {
            "adapter_hash": f"+{Path(model.adapter_source or '').name}",
            "quant_bits": f"-{model.quant_bits}bit",
            "dtype": f"-{model.dtype}",
        }
        candidates = [
            model.name + suffix
            for trait, suffix in traits.items()
            if (mine := getattr(model, trait)) and mine not in {getattr(o, trait) for o in others}
        ]
    candidates.append(f"{model.name}@{model.content_hash[:8]}")
    taken = set(connection.execute(sa.text("SELECT label FROM models")).scalars())
    free = [label for label in candidates if label not in taken]
    return free[0] if free else f"{model.name}@{model.content_hash}"


def put_prompt_set(connection: sa.Connection, prompts: PromptSet) -> int:
    """Files a prompt set with its prompts, unless it is there; its key."""
    key = {"name": prompts.name, "content_hash": prompts.content_hash}
    set_id = _put(connection, "prompt_sets", key, {"description": prompts.description})
    filed = sa.text("SELECT count(*) FROM prompt_set_items WHERE prompt_set_id = :id")
    if connection.execute(filed, {"id": set_id}).scalar_one() == 0:
        columns = "content_hash, " + ", ".join(asdict(prompts.prompts[0]))
        rows = [_prompt_row(prompt) for prompt in prompts.prompts]
        insert(connection, "prompts", columns, rows, "ON CONFLICT DO NOTHING")
        ids = _prompt_ids(connection, prompts.prompts)
        items = [
            (set_id, place, ids[prompt.content_hash])
            for place, prompt in enumerate(prompts.prompts)
        ]
        insert(connection, "prompt_set_items", "prompt_set_id, position, prompt_id", items)
    return set_id


def _prompt_row(prompt: Prompt) -> tuple[Any, ...]:
    values = asdict(prompt)
    values["token_ids"] = spaced(prompt.token_ids)
    return (prompt.content_hash, *values.values())


def spaced(token_ids: Sequence[int] | None) -> str | None:
    """Token ids as they are stored."""
    return None if token_ids is None else " ".join(map(str, token_ids))


def _prompt_ids(connection: sa.Connection, prompts: Iterable[Prompt]) -> dict[str, int]:
    """Content hash → id."""
    hashes = [prompt.content_hash for prompt in prompts]
    query = sa.text("SELECT content_hash, id FROM prompts WHERE content_hash IN :hashes")
    query = query.bindparams(sa.bindparam("hashes", expanding=True))
    found: dict[str, int] = {}
    # SQLite takes 32,766 values in a statement, PostgreSQL 65,535.
    for start in range(0, len(hashes), 30_000):
        rows = connection.execute(query, {"hashes": hashes[start : start + 30_000]})
        found |= dict(rows.all())
    return found


def _condition_hash(condition: Mapping[str, str]) -> str:
    return sha256(json.dumps(condition, sort_keys=True).encode()).hexdigest()


def _conditions(connection: sa.Connection, trials: Iterable[TrialSpec]) -> dict[str, int]:
    """Content hash of each condition that occurs → id."""
    found: dict[str, int] = {}
    for trial in trials:
        key = _condition_hash(trial.condition)
        if key not in found:
            found[key] = _condition(connection, trial.condition)
    return found


def _condition(connection: sa.Connection, condition: Mapping[str, str]) -> int:
    """A condition's id; what it is a control of is filed first."""
    controlled = {name: value for name, value in condition.items() if name != CONTROL}
    values = {
        "label": ", ".join(f"{name}={value}" for name, value in condition.items()),
        "controls_id": _condition(connection, controlled) if CONTROL in condition else None,
    }
    key = _put(connection, "conditions", {"content_hash": _condition_hash(condition)}, values)
    rows = [(key, name, value) for name, value in condition.items()]
    columns = "condition_id, name, value"
    insert(connection, "condition_values", columns, rows, "ON CONFLICT DO NOTHING")
    return key
