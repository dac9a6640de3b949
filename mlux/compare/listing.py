"""The runs of a notebook as a table."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

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
        where: Only those that fulfil a condition, as in `model ~ 'gemma' and params.top_k > 3`
            (the language of `mlux runs list --where`).
        limit: At most this many.

    Returns:
        `run experiment model prompts status trials done failed created started finished seconds
        seed note error`, then `params.NAME` and `tags.NAME` for each name that occurs. Times are
        in UTC.

    Example:
        >>> runs("mlux.db.example", experiment="logit_lens")["model"].tolist()
        ['demo-4bit', 'demo']
    """
    with frames.opened(db) as store:
        listed = reader.list_runs(
            store,
            experiment=experiment,
            model=model,
            status=status,
            tag=tag,
            where=where,
            limit=limit,
        )
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
