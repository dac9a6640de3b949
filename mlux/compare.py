"""Runs as tidy pandas DataFrames, and what differs between them, paired by prompt.

A run is named by its uid, the start of it, `latest`, `latest:EXPERIMENT`, or anything that has a
`uid`. Names are categoricals, layer, head and position are `Int64` with NA where there is none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mlux.errors import ParameterError, RunError, UnknownNameError
from mlux.stats import Floats, benjamini_hochberg, mean_interval, sign_flip_p
from mlux.store import frames, reader
from mlux.store.frames import Database, RunReference, Runs
from mlux.store.records import StoredRun

GROUPS = ("layer", "head", "position", "prompt", "condition", "model", "experiment")
"""What results can be grouped by."""

_RUN_COLUMNS = (
    *("run", "experiment", "model", "prompts", "status", "trials", "done", "failed"),
    *("created", "started", "finished", "seconds", "seed", "note", "error"),
)
_MEASURES = ("n", "n_lost", "mean_a", "mean_b", "estimate", "low", "high", "p", "q")


def runs(
    db: Database = None,
    *,
    experiment: str | None = None,
    model: str | None = None,
    status: str | None = None,
    tag: str | Mapping[str, str] | None = None,
    limit: int | None = None,
) -> pd.DataFrame:
    """One row a run, newest first, with a column for each parameter and tag.

    Args:
        db: The notebook.
        experiment: Only of this experiment.
        model: Only on this model.
        status: Only in this state.
        tag: Only with this tag: `NAME`, `NAME=VALUE`, or a mapping.
        limit: At most this many.

    Returns:
        `run experiment model prompts status trials done failed created started finished seconds
        seed note error`, then `params.NAME` and `tags.NAME` for each name that occurs. Times are
        in UTC.
    """
    with frames.opened(db) as store:
        listed = reader.list_runs(
            store, experiment=experiment, model=model, status=status, tag=tag, limit=limit
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


def layer_results(runs: Runs, metric: str | None = None, db: Database = None) -> pd.DataFrame:
    """Every number of these runs, one a row.

    Args:
        runs: A run, or several.
        metric: Only this metric.
        db: The notebook.

    Returns:
        `run experiment model prompt condition metric layer head position value`.

    Raises:
        UnknownNameError: If there is no such run, or the runs have no such metric.
    """
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        where, values = frames.of_metric(connection, list(keys.values()), metric)
        select = (
            "SELECT v.run_id, r.experiment_id, r.model_id, t.prompt_id, t.condition_id, "
            "v.metric_id, v.layer, v.head, v.position, v.value FROM layer_results AS v"
        )
        order = "ORDER BY v.run_id, v.metric_id, v.trial, v.layer, v.head, v.position"
        names = "run experiment model prompt condition metric layer head position value"
        return frames.frame(
            connection, f"{select} {frames.FROM_TRIALS} {where} {order}", values, names
        )


def pivot(
    runs: Runs, *, metric: str, by: str | Sequence[str] = "layer", db: Database = None
) -> pd.DataFrame:
    """A metric side by side: one column a run, one row a group, the mean over everything else.

    Args:
        runs: A run, or several.
        metric: The metric.
        by: One or several of `layer head position prompt condition model experiment`.
        db: The notebook.

    Returns:
        Indexed by `by`, columns named by uid in the order asked for.

    Raises:
        UnknownNameError: If there is no such run, metric or group.
    """
    groups = _groups(by)
    if not groups:
        raise ParameterError(f"Choose what to group by: {', '.join(GROUPS)}.")
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        sums = frames.sums(connection, keys, metric, ["run", *groups])
    totals = sums.groupby(["run", *groups], observed=True, dropna=False)[["total", "n"]].sum()
    means = (totals["total"] / totals["n"]).rename("mean").reset_index()
    means["run"] = means["run"].astype(str)
    table = means.pivot(index=groups, columns="run", values="mean")
    return table.reindex(columns=pd.Index(list(keys), name="run"))


def diff(
    a: RunReference,
    b: RunReference,
    *,
    metric: str,
    by: str | Sequence[str] = "layer",
    db: Database = None,
    seed: int = 0,
) -> pd.DataFrame:
    """How b differs from a, paired by prompt.

    The prompt is the unit: its values are averaged within a group first, over those conditions
    that both runs have; then b minus a is taken for each prompt that both have.

    Args:
        a: A run, the baseline.
        b: A run.
        metric: The metric.
        by: What to compare separately: any of `layer head position prompt condition model
            experiment`; an empty list compares everything at once.
        db: The notebook.
        seed: Of the resampling.

    Returns:
        One row a group: the group's names, `n` pairs, `n_lost` prompts that only one run has,
        `mean_a`, `mean_b`, `estimate` (mean of b minus a), its 95 % bootstrap interval `low` to
        `high` (SciPy, BCa), `p` of a paired sign-flip test, and `q`, which is p corrected over
        the groups (Benjamini and Hochberg). `attrs["notes"]` lists what to keep in mind.

    Raises:
        UnknownNameError: If there is no such run, metric or group.
        RunError: If no prompt is in both.
    """
    groups = _groups(by)
    within = [name for name in groups if name not in ("model", "experiment")]
    with frames.opened(db) as store:
        with store.reading() as connection:
            uids = [next(iter(frames.run_keys(store, connection, side))) for side in (a, b)]
            keys = frames.run_keys(store, connection, uids)
            units = [*within, "prompt_id", "condition_id"]
            sums = [frames.sums(connection, {uid: keys[uid]}, metric, units) for uid in uids]
        first, second = (reader.load_run(store, uid) for uid in uids)
    means = [_units(side, within, name) for side, name in zip(sums, "ab", strict=True)]
    both = means[0].merge(means[1], on=units, how="outer")
    if not both[["a", "b"]].notna().all(axis=1).any():
        raise RunError(
            f"Runs {uids[0]} ({first.prompts.name}) and {uids[1]} ({second.prompts.name}) have no "
            f"{metric} of the same prompt under the same condition, so nothing can be paired. "
            "See their means side by side: mlux compare --side-by-side, or compare.pivot."
        )
    table = _compared(both, within, seed)
    for name in (name for name in groups if name not in within):
        labels = [run.model_label if name == "model" else run.experiment for run in (first, second)]
        table[name] = pd.Categorical([" → ".join(dict.fromkeys(labels))] * len(table))
    table = table[[*groups, *_MEASURES]]
    table.attrs = {"a": uids[0], "b": uids[1], "metric": metric, "notes": _notes(first, second)}
    return table


def predictions(runs: Runs, db: Database = None) -> pd.DataFrame:
    """The most probable tokens, one a row; rank 0 is the first.

    Returns:
        `run experiment model prompt condition layer position rank token probability`.
    """
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        query = f"""
        SELECT v.run_id, r.experiment_id, r.model_id, t.prompt_id, t.condition_id, v.layer,
          v.position, v.rank, v.token, v.logprob FROM token_predictions AS v {frames.FROM_TRIALS}
        ORDER BY v.run_id, v.trial, v.layer, v.position, v.rank
        """
        names = "run experiment model prompt condition layer position rank token value"
        frame = frames.frame(connection, query, {"runs": list(keys.values())}, names)
    frame["probability"] = np.exp(frame.pop("value").to_numpy())
    return frame


def generations(runs: Runs, db: Database = None) -> pd.DataFrame:
    """The texts that the models continued, one a row.

    Returns:
        `run experiment model prompt condition sample text`.
    """
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        query = f"""
        SELECT v.run_id, r.experiment_id, r.model_id, t.prompt_id, t.condition_id, v.sample, v.text
        FROM generations AS v {frames.FROM_TRIALS} ORDER BY v.run_id, v.trial, v.sample
        """
        names = "run experiment model prompt condition sample text"
        return frames.frame(connection, query, {"runs": list(keys.values())}, names)


def _groups(by: str | Sequence[str]) -> list[str]:
    groups = [by] if isinstance(by, str) else list(by)
    for name in groups:
        if name not in GROUPS:
            raise UnknownNameError("group", name, GROUPS)
    return list(dict.fromkeys(groups))


def _units(sums: pd.DataFrame, groups: list[str], side: str) -> pd.DataFrame:
    """The mean of each prompt under each condition in each group, in a column named by its side."""
    return sums.assign(**{side: sums["total"] / sums["n"]})[
        [*groups, "prompt_id", "condition_id", side]
    ]


def _compared(units: pd.DataFrame, groups: list[str], seed: int) -> pd.DataFrame:
    """Statistics of each group.

    Args:
        units: `groups`, `prompt_id`, `condition_id`, and the means `a` and `b`, NaN where a run
            lacks them.
        groups: What to compare separately.
        seed: Of the resampling.
    """
    paired = units[units[["a", "b"]].notna().all(axis=1)]
    by_prompt = [*groups, "prompt_id"]
    prompts = paired.groupby(by_prompt, observed=True, dropna=False)[["a", "b"]].mean()
    everything = units[by_prompt].drop_duplicates().assign(all=1).set_index(by_prompt)
    joined = everything.join(prompts).reset_index()
    parts = (
        list(joined.groupby(groups, observed=True, dropna=False, sort=True))
        if groups
        else [((), joined)]
    )
    rows = [dict(zip(groups, names, strict=True)) for names, _ in parts]
    table = pd.DataFrame(rows, columns=groups, index=range(len(parts)))
    for name in groups:
        table[name] = table[name].astype(joined[name].dtype)
    pairs = [part[["a", "b"]].dropna().to_numpy() for _, part in parts]  # [n, 2] each
    table["n"] = [len(pair) for pair in pairs]
    table["n_lost"] = [len(part) for _, part in parts] - table["n"]
    for column, values in _measured(pairs, seed).items():
        table[column] = values
    return table


def _measured(pairs: list[Floats], seed: int) -> dict[str, Floats]:
    """Means, interval, p and q of each group's pairs; groups of equal size are done together."""
    found = {name: np.full(len(pairs), np.nan) for name in _MEASURES[2:]}
    sizes = np.array([len(pair) for pair in pairs])
    for size in np.unique(sizes[sizes > 0]):
        places = np.flatnonzero(sizes == size)
        both = np.stack([pairs[place] for place in places])  # [groups, n, 2]
        difference = both[:, :, 1] - both[:, :, 0]  # [groups, n]
        found["mean_a"][places], found["mean_b"][places] = both.mean(axis=1).T
        found["estimate"][places] = difference.mean(axis=1)
        found["low"][places], found["high"][places] = mean_interval(difference, seed=seed)
        found["p"][places] = sign_flip_p(difference, seed=seed)
    found["q"] = benjamini_hochberg(found["p"])
    return found


def _notes(a: StoredRun, b: StoredRun) -> list[str]:
    """What a person should know before believing a difference."""
    notes = []
    if _width(a) != _width(b):
        notes.append(
            f"{a.model_label} is {_width(a)}, {b.model_label} is {_width(b)}: "
            "part of a difference may be due to that."
        )
    if a.experiment == b.experiment and a.code_hash != b.code_hash:
        notes.append(f"The code of {a.experiment} changed between the two runs.")
    for run in (a, b):
        if run.status != "done":
            notes.append(f"Run {run.uid} is {run.status}; {len(run.pending)} trials are missing.")
    return notes


def _width(run: StoredRun) -> str:
    bits, group = run.model.quant_bits, run.model.quant_group_size
    return f"quantised to {bits} bits (groups of {group})" if bits else "not quantised"
