"""Runs in an MLflow store, for dashboards that a team has already.

An experiment of mlux is one of MLflow, and a run is a run of the same name. Its parameters, model
and prompts are params; its tags, note and provenance are tags; every metric is the mean over its
prompts, with the layer as the step; its artifacts are artifacts.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from mlux import compare
from mlux.errors import StoreError
from mlux.store import artifacts
from mlux.store.reader import load_run
from mlux.store.records import StoredRun
from mlux.store.session import Store

_UID = "mlux.run"
# MLflow's own limits.
_TEXT = 5000
_BATCH = 1000
_SOME = 100
_FILE_STORE = "MLFLOW_ALLOW_FILE_STORE"
_STATUSES = {"done": "FINISHED", "queued": "SCHEDULED", "running": "RUNNING"}


def export_mlflow(store: Store, runs: Sequence[str], uri: str) -> tuple[list[str], list[str]]:
    """Writes runs to an MLflow store; a run that is there already stays as it is.

    Args:
        store: The notebook.
        runs: Uids of the runs.
        uri: A folder, or a tracking URI as MLflow takes it (`http://…`, `sqlite:///…`).

    Returns:
        Uids of the runs that were written, and of those that were there.

    Raises:
        StoreError: If MLflow is not installed, or does not take them.
    """
    with _client(uri) as client:
        new, there = [], []
        for uid in runs:
            run = load_run(store, uid)
            experiment = _experiment(client, run.experiment)
            wanted = f"tags.`{_UID}` = '{uid}'"
            if client.search_runs([experiment], wanted, max_results=1):
                there.append(uid)
                continue
            _write(client, experiment, store, run)
            new.append(uid)
        return new, there


@contextmanager
def _client(uri: str) -> Iterator[Any]:
    """MLflow's client; a folder has to be allowed, since MLflow would rather have a database."""
    before = os.environ.get(_FILE_STORE)
    if "://" not in uri:
        os.environ[_FILE_STORE] = "true"
    try:
        try:
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ModuleNotFoundError as error:
            raise StoreError("MLflow needs its client: pip install 'mlux[mlflow]'") from error
        try:
            yield MlflowClient(tracking_uri=uri)
        except (MlflowException, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise StoreError(f"MLflow at {uri}: {reason}") from error
    finally:
        if before is None:
            os.environ.pop(_FILE_STORE, None)
        else:
            os.environ[_FILE_STORE] = before


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _write(client: Any, experiment: str, store: Store, run: StoredRun) -> None:
    """Writes a run; its uid comes last, so that a half-written one is written again."""
    from mlflow.entities import Metric, Param, RunTag

    made = client.create_run(experiment, start_time=_ms(run.started_at), run_name=run.uid)
    key = made.info.run_id
    params = [Param(_name(name), value[:_TEXT]) for name, value in _params(run).items()]
    for start in range(0, len(params), _SOME):
        client.log_batch(key, params=params[start : start + _SOME])
    tags = [RunTag(_name(name), value[:_TEXT]) for name, value in _tags(run).items()]
    for start in range(0, len(tags), _SOME):
        client.log_batch(key, tags=tags[start : start + _SOME])
    at = _ms(run.finished_at) or _ms(run.created_at) or 0
    metrics = [Metric(name, value, at, step) for name, value, step in _means(store, run)]
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(key, metrics=metrics[start : start + _BATCH])
    home = artifacts.folder(store)
    for row in artifacts.list_artifacts(store, run.uid):
        place = "run" if row["trial"] is None else f"trial_{row['trial']}"
        path = artifacts.path_of(home, row["sha256"])
        if (wrong := artifacts.wrong_with(path, row["sha256"])) is not None:
            raise StoreError(f"Artifact {row['name']!r} of run {run.uid} {wrong}.")
        client.log_artifact(key, str(path), f"{place}/{_name(row['name'])}")
    client.set_tag(key, _UID, run.uid)
    client.set_terminated(key, _STATUSES.get(run.status, "FAILED"), _ms(run.finished_at))


def _params(run: StoredRun) -> dict[str, str]:
    known = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in run.params.items()
    }
    return known | {
        "mlux.model": run.model_label,
        "mlux.prompts": run.prompts.name,
        "mlux.seed": str(run.seed),
        "mlux.dtype": run.model.dtype,
        "mlux.quant_bits": str(run.model.quant_bits),
    }


def _tags(run: StoredRun) -> dict[str, str]:
    environment = run.environment
    known = {
        "mlflow.note.content": run.note or "",
        "mlux.model_hash": run.model.content_hash,
        "mlux.weights_hash": run.model.weights_hash,
        "mlux.prompts_hash": run.prompts.content_hash,
        "mlux.code_hash": run.code_hash,
        "mlux.git_commit": environment.git_commit or "",
        "mlux.device": environment.device,
        "mlux.host": environment.host,
        "mlux.trials": f"{run.counts['done']}/{len(run.trials)}",
        "mlux.error": run.error or "",
        **{f"mlux.version.{name}": version for name, version in run.versions.items()},
    }
    return {name: value for name, value in known.items() if value} | dict(run.tags)


def _means(store: Store, run: StoredRun) -> Iterator[tuple[str, float, int]]:
    """Name, mean over prompts and positions, and layer of every metric."""
    frame = compare.layer_results([run], db=store)
    keys = ["metric", "condition", "head", "layer"]
    means = frame.groupby(keys, observed=True, dropna=False)["value"].mean().reset_index()
    for metric, condition, head, layer, value in means.itertuples(index=False):
        parts = [metric, *([condition] if condition else [])]
        parts += [] if _is_missing(head) else [f"head_{head}"]
        yield ".".join(map(_name, parts)), float(value), 0 if _is_missing(layer) else int(layer)


def _is_missing(value: Any) -> bool:
    return not isinstance(value, int) and not str(value).isdigit()


def _name(text: str) -> str:
    """A name with the letters that MLflow takes."""
    return re.sub(r"[^\w.\- :]", "_", text, flags=re.ASCII)[:200] or "_"


def _ms(time: str | None) -> int | None:
    return None if time is None else int(datetime.fromisoformat(time).timestamp() * 1000)
