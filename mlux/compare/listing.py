"""The runs of a notebook as a table."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pandas as pd

from mlux.errors import ParameterError, UnknownNameError
from mlux.limits import check as check_range
from mlux.store import frames, reader
from mlux.store.frames import Database

_RUN_COLUMNS = (
    *("run", "experiment", "model", "prompts", "status", "trials", "done", "failed"),
    *("created", "started", "finished", "seconds", "seed", "note", "error"),
)


def runs(
    db: Database = None,
    *,
    experiment: str | None = None,
    model: str | None = None,
    status: str | None = None,
    tag: str | Mapping[str, str] | None = None,
    param: Mapping[str, Any] | None = None,
    since: str | datetime | None = None,
    until: str | datetime | None = None,
    where: str | None = None,
    limit: int | None = None,
) -> pd.DataFrame:
    """One row a run, newest first, with a column for each parameter and tag.

    Args:
        db: The notebook.
        experiment: Only of this experiment.
        model: Only on this model.
        status: Only in this state.
        tag: Only with this tag: `NAME`, `NAME=VALUE`, or a mapping.
        param: Only with these values of params, as in `{"top_k": 5}`.
        since: Only those created at this time or later: a date or time, in UTC unless it says
            otherwise.
        until: Only those created before this time.
        where: Only those that fulfil a condition, as in `model ~ 'gemma' and params.top_k > 3`
            (the language of `mlux runs list --where`).
        limit: At most this many.

    Returns:
        `run experiment model prompts status trials done failed created started finished seconds
        seed note error`, then `params.NAME` and `tags.NAME` for each name that occurs. Times are
        in UTC. Its column `run` is what every other function takes:
        `profile(runs(model="demo")["run"], …)`.

    Raises:
        UnknownNameError: If no run has that experiment, model or param.
        ParameterError: If the condition or a time cannot be read.

    Example:
        >>> runs("mlux.db.example", experiment="logit_lens")["model"].tolist()
        ['demo-4bit', 'demo']
    """
    check_range("limit", limit)
    with frames.opened(db) as store:
        listed = reader.list_runs(
            store,
            experiment=experiment,
            model=model,
            status=status,
            tag=tag,
            where=where,
            limit=limit if param is None and since is None and until is None else None,
        )
    listed = _within(_with_params(listed, param), since, until)[:limit]
    frame = pd.DataFrame(listed, columns=[*_RUN_COLUMNS, "params", "tags"])
    for name in ("experiment", "model", "prompts", "status"):
        frame[name] = frame[name].astype("category")
    for name in ("trials", "done", "failed", "seed"):
        frame[name] = frame[name].astype("int64")
    for name in ("created", "started", "finished"):
        frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[us, UTC]")
    frame["seconds"] = frame["seconds"].astype("float64")
    for kind in ("params", "tags"):
        values: list[dict[str, Any]] = list(frame.pop(kind))
        for name in sorted({name for row in values for name in row}):
            frame[f"{kind}.{name}"] = [row.get(name) for row in values]
    return frame


def _with_params(
    rows: list[dict[str, Any]], param: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Those that have these params."""
    known = {name for row in rows for name in row["params"]}
    for name in param or {}:
        if rows and name not in known:
            raise UnknownNameError("param of these runs", name, known)
    # As it is stored: a tuple is a list there.
    wanted = {k: list(v) if isinstance(v, tuple) else v for k, v in (param or {}).items()}
    return [
        row
        for row in rows
        if all(name in row["params"] and row["params"][name] == v for name, v in wanted.items())
    ]


def _within(
    rows: list[dict[str, Any]], since: str | datetime | None, until: str | datetime | None
) -> list[dict[str, Any]]:
    """Those created in a span of time."""
    first, end = _time(since), _time(until)
    created = [pd.Timestamp(row["created"]) for row in rows]
    return [
        row
        for row, at in zip(rows, created, strict=True)
        if (first is None or at >= first) and (end is None or at < end)
    ]


def _time(given: str | datetime | None) -> pd.Timestamp | None:
    if given is None:
        return None
    try:
        time = pd.Timestamp(given)
    except ValueError as error:
        raise ParameterError(
            f"{given!r} is no time; write it as 2026-02-03 or with T12:00."
        ) from error
    return time.tz_localize("UTC") if time.tzinfo is None else time
