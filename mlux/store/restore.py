"""Rows back into the records that they were made of."""

import json
from typing import Any

import sqlalchemy as sa

from mlux.errors import StoreError
from mlux.prompts import Prompt, PromptSet
from mlux.provenance import Environment, ModelIdentity, TokenizerIdentity
from mlux.results import Metric
from mlux.store.reader import pairs
from mlux.store.records import Event, StoredRun, TrialSpec


def stored_run(connection: sa.Connection, row: dict[str, Any], *, crashed: bool) -> StoredRun:
    """A run from its row, joined with its experiment's name, description and paper."""
    run = row["id"]
    prompt_keys, prompts = restore_prompt_set(connection, row["prompt_set_id"])
    numbers = {key: number for number, key in enumerate(prompt_keys)}
    conditions = _conditions(connection, run)
    trials = connection.execute(
        sa.text(
            "SELECT trial, prompt_id, condition_id, status, error FROM trials "
            "WHERE run_id = :run ORDER BY trial"
        ),
        {"run": run},
    ).all()
    label, model = _model(connection, row["model_id"])
    states = [trial.status for trial in trials]
    events = connection.execute(
        sa.text("SELECT at, kind, message FROM run_events WHERE run_id = :run ORDER BY id"),
        {"run": run},
    )
    columns = (
        "uid experiment paper code_hash error seed batch_size note created_at started_at "
        "heartbeat_at finished_at deleted_at seconds peak_memory_bytes hook_fires "
        "memory_bytes rerun_of"
    )
    return StoredRun(
        **{column: row[column] for column in columns.split()},
        description=row["experiment_description"],
        status="crashed" if crashed else row["status"],
        metrics=_metrics(connection, run),
        model=model,
        model_label=label,
        prompts=prompts,
        trials=tuple(
            TrialSpec(prompt=numbers[trial.prompt_id], condition=conditions[trial.condition_id])
            for trial in trials
        ),
        pending=tuple(trial.trial for trial in trials if trial.status != "done"),
        failures={trial.trial: trial.error for trial in trials if trial.status == "failed"},
        unsolved={t.trial: t.error for t in trials if t.status == "done" and t.error is not None},
        counts={state: states.count(state) for state in ("done", "failed", "pending")},
        params=_params(connection, run, row["uid"]),
        tags=dict(
            pairs(connection, "SELECT run_id, name, value FROM run_tags", [run]).get(run, [])
        ),
        environment=_environment(connection, row),
        events=tuple(Event(at=at, kind=kind, message=text) for at, kind, text in events),
    )


def _params(connection: sa.Connection, run: int, uid: str) -> dict[str, Any]:
    rows = pairs(connection, "SELECT run_id, name, value FROM run_params", [run]).get(run, [])
    found = {}
    for name, value in rows:
        try:
            found[name] = json.loads(value)
        except ValueError as error:
            raise StoreError(
                f"Run {uid} is damaged: its parameter {name!r} is no JSON: {value[:60]!r}. What "
                "else is wrong says: mlux db check"
            ) from error
    return found


def restore_prompt_set(connection: sa.Connection, key: int) -> tuple[list[int], PromptSet]:
    """A prompt set, and the keys of its prompts in its order."""
    name, description = connection.execute(
        sa.text("SELECT name, description FROM prompt_sets WHERE id = :key"), {"key": key}
    ).one()
    rows = connection.execute(
        sa.text(
            "SELECT p.* FROM prompt_set_items AS i JOIN prompts AS p ON p.id = i.prompt_id "
            "WHERE i.prompt_set_id = :key ORDER BY i.position"
        ),
        {"key": key},
    )
    keys, prompts = [], []
    for row in rows.mappings():
        values = {name: value for name, value in row.items() if name not in ("id", "content_hash")}
        if values["token_ids"] is not None:
            values["token_ids"] = tuple(map(int, values["token_ids"].split()))
        keys.append(row["id"])
        prompts.append(Prompt(**values))
    return keys, PromptSet(name=name, prompts=tuple(prompts), description=description)


def _model(connection: sa.Connection, key: int) -> tuple[str, ModelIdentity]:
    """A model's label and identity."""
    values = dict(_row(connection, "models", key))
    tokenizer = dict(_row(connection, "tokenizers", values.pop("tokenizer_id")))
    for generated in ("id", "identity_hash"):
        del tokenizer[generated]
    for generated in ("id", "content_hash"):
        del values[generated]
    label = values.pop("label")
    return label, ModelIdentity(**values, tokenizer=TokenizerIdentity(**tokenizer))


def _row(connection: sa.Connection, table: str, key: int) -> sa.RowMapping:
    query = sa.text(f"SELECT * FROM {table} WHERE id = :key")
    return connection.execute(query, {"key": key}).mappings().one()


def _conditions(connection: sa.Connection, run: int) -> dict[int, dict[str, str]]:
    """Key → names and values of each condition that a run has."""
    rows = connection.execute(
        sa.text(
            "SELECT DISTINCT t.condition_id, v.name, v.value FROM trials AS t "
            "LEFT JOIN condition_values AS v ON v.condition_id = t.condition_id "
            "WHERE t.run_id = :run ORDER BY t.condition_id, v.name"
        ),
        {"run": run},
    )
    found: dict[int, dict[str, str]] = {}
    for key, name, value in rows:
        values = found.setdefault(key, {})
        if name is not None:
            values[name] = value
    return found


def _metrics(connection: sa.Connection, run: int) -> tuple[Metric, ...]:
    """The metrics that a run declares, in its order."""
    rows = connection.execute(
        sa.text(
            "SELECT m.name, m.unit, m.description, m.better FROM run_metrics AS r "
            "JOIN metrics AS m ON m.id = r.metric_id WHERE r.run_id = :run ORDER BY r.place"
        ),
        {"run": run},
    )
    return tuple(Metric(**row) for row in rows.mappings())


def _environment(connection: sa.Connection, row: dict[str, Any]) -> Environment:
    """Where a run, given as its row, ran last."""
    versions = connection.execute(
        sa.text("SELECT package, version FROM run_versions WHERE run_id = :run ORDER BY package"),
        {"run": row["id"]},
    )
    return Environment(
        device=row["device"],
        host=row["host"],
        # 0 is no process: the run was not started yet.
        pid=row["pid"] or 0,
        platform=row["platform"],
        git_commit=row["git_commit"],
        git_dirty=None if row["git_dirty"] is None else bool(row["git_dirty"]),
        versions=dict(versions.all()),
    )
