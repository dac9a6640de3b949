"""How one run differs from another, prompt by prompt."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlux.compare.selection import groups_of
from mlux.errors import RunError
from mlux.stats import Floats, benjamini_hochberg, mean_interval, sign_flip_p
from mlux.store import frames, reader
from mlux.store.frames import Database, RunReference
from mlux.store.records import StoredRun

_MEASURES = ("n", "n_lost", "mean_a", "mean_b", "estimate", "low", "high", "p", "q")


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

    Example:
        >>> table = diff("latest:logit_lens~1", "latest:logit_lens", metric="answer_rank",
        ...              db="mlux.db.example")
        >>> bool((table["low"] <= table["high"]).all())
        True
    """
    groups = groups_of(by)
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
