"""What runs measured, one number a row or side by side, and what they wrote."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mlux.compare.depth import at_depth, depth_notes, reference_depth
from mlux.compare.facts import run_facts
from mlux.compare.selection import GROUPS, groups_of
from mlux.errors import ParameterError
from mlux.store import frames, numbers
from mlux.store.frames import Database, Runs


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

    Example:
        >>> ranks = layer_results("latest:logit_lens", "answer_rank", db="mlux.db.example")
        >>> list(ranks.columns[5:])
        ['metric', 'layer', 'head', 'position', 'value']
    """
    with frames.opened(db) as store:
        return numbers.layer_results(store, runs, metric)


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
        Indexed by `by`, columns named by uid in the order asked for. Layers of models of different
        depth stand side by side where they are the same share of the depth; `attrs` has that in
        `notes`.

    Raises:
        UnknownNameError: If there is no such run, metric or group.

    Example:
        >>> both = ["latest:logit_lens~1", "latest:logit_lens"]
        >>> pivot(both, metric="answer_rank", db="mlux.db.example").index.name
        'layer'
    """
    groups = groups_of(by)
    if not groups:
        raise ParameterError(f"Choose what to group by: {', '.join(GROUPS)}.")
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        sums = frames.sums(connection, keys, metric, ["run", *groups])
        facts = run_facts(connection, keys)
    reference = reference_depth(facts, groups)
    if reference is not None:
        sums = pd.concat([at_depth(sums[sums["run"] == run.uid], run, reference) for run in facts])
    totals = sums.groupby(["run", *groups], observed=True, dropna=False)[["total", "n"]].sum()
    means = (totals["total"] / totals["n"]).rename("mean").reset_index()
    means["run"] = means["run"].astype(str)
    table = means.pivot(index=groups, columns="run", values="mean")
    table = table.reindex(columns=pd.Index(list(keys), name="run"))
    table.attrs = {"notes": depth_notes(facts, reference)}
    return table


def predictions(runs: Runs, db: Database = None) -> pd.DataFrame:
    """The most probable tokens, one a row; rank 0 is the first.

    Returns:
        `run experiment model prompt condition layer position rank token_id token probability`.
        `token` can be read and differs for every id of a vocabulary: ␣ is a space, <0xE2> a byte.

    Example:
        >>> tokens = predictions("latest:logit_lens", db="mlux.db.example")
        >>> bool(tokens["probability"].between(0, 1).all())
        True
    """
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        query = f"""
        SELECT v.run_id, r.experiment_id, r.model_id, t.prompt_id, t.condition_id, v.layer,
          v.position, v.rank, w.token_id, v.token, v.logprob FROM token_predictions AS v
        JOIN tokens AS w ON w.id = v.token {frames.FROM_TRIALS}
        ORDER BY v.run_id, v.trial, v.layer, v.position, v.rank
        """
        names = "run experiment model prompt condition layer position rank token_id token value"
        frame = frames.frame(connection, query, {"runs": list(keys.values())}, names)
    frame["probability"] = np.exp(frame.pop("value").to_numpy())
    return frame


def generations(runs: Runs, db: Database = None) -> pd.DataFrame:
    """The texts that the models continued, one a row.

    Returns:
        `run experiment model prompt condition sample text`.

    Example:
        >>> len(generations("latest:logit_lens", db="mlux.db.example"))
        0
    """
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        query = f"""
        SELECT v.run_id, r.experiment_id, r.model_id, t.prompt_id, t.condition_id, v.sample, v.text
        FROM generations AS v {frames.FROM_TRIALS} ORDER BY v.run_id, v.trial, v.sample
        """
        names = "run experiment model prompt condition sample text"
        return frames.frame(connection, query, {"runs": list(keys.values())}, names)
