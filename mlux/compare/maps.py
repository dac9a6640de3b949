"""A metric on a grid: layer × head, or layer × position with the tokens beside it."""

from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd
import sqlalchemy as sa

from mlux.compare.selection import groups_of
from mlux.compare.units import means, with_identity, with_metric
from mlux.store import frames
from mlux.store.frames import Database, Runs

_TOKENS = """
SELECT x.run_id, x.prompt_id, x.position, min(x.token) AS token
FROM (SELECT t.run_id, t.prompt_id, w.position, w.token
      FROM trials AS t JOIN trial_tokens AS w ON w.run_id = t.run_id AND w.trial = t.trial
      WHERE t.run_id IN :runs AND w.role = 'clean') AS x
GROUP BY x.run_id, x.prompt_id, x.position HAVING min(x.token) = max(x.token)
"""


def heatmap(
    runs: Runs,
    *,
    metric: str,
    across: Literal["head", "position"] = "head",
    by: str | Sequence[str] = (),
    db: Database = None,
) -> pd.DataFrame:
    """A metric by layer and head, or by layer and position.

    Args:
        runs: A run, or several.
        metric: The metric.
        across: What lies across the layers: `head` or `position`.
        by: What to keep apart: any of `prompt condition`, and the axis that is not across.
        db: The notebook.

    Returns:
        `run experiment model`, `by`, `metric layer`, then `head` or `position`, then `token` (only
        with positions), `n value`, in the order of runs, groups, layers, and heads or positions.
        `value` is the mean over `n` prompts. `token` is the clean prompt's token at that position,
        NA where the prompts that are averaged have different ones: keep prompts apart with
        `by="prompt"`. As a grid: `.pivot(index="layer", columns="head", values="value")`.

    Raises:
        UnknownNameError: If there is no such run, metric or group.

    Example:
        >>> heads = heatmap("latest:induction_heads", metric="prefix_matching_score",
        ...                 db="mlux.db.example")
        >>> list(heads.columns[3:])
        ['metric', 'layer', 'head', 'n', 'value']
    """
    groups_of(across, among=("head", "position"))
    extra = groups_of(by, among=("prompt", "condition", "head", "position"))
    groups = ["run", *(name for name in extra if name != across), "layer", across]
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        table = means(connection, keys, metric, groups)
        if across == "position":
            tokens = _tokens(connection, keys)
            shared = ["run", *(["prompt"] if "prompt" in groups else []), "position"]
            table["token"] = _shared(tokens, shared, table)
            table = table[[*groups, "token", "n", "value"]]
        table = with_identity(connection, table)
    return with_metric(table, metric, before="layer")


def _tokens(connection: sa.Connection, keys: Mapping[str, int]) -> pd.DataFrame:
    """`run prompt position token` of every clean prompt, where its trials agree."""
    values = {"runs": list(keys.values())}
    found = frames.frame(connection, _TOKENS, values, "run prompt position token")
    found["token"] = found["token"].astype("str")
    return found


def _shared(tokens: pd.DataFrame, groups: list[str], table: pd.DataFrame) -> "pd.Series[str]":
    """The token of each row of the table, NA where those that it stands for differ."""
    by_place = tokens.groupby(groups, observed=True)["token"]
    same = by_place.first().where(by_place.nunique() == 1)
    for name in groups:
        if isinstance(table[name].dtype, pd.CategoricalDtype):
            same = same.reset_index().astype({name: "str"}).set_index(groups)["token"]
    plain = table[groups].astype({n: "str" for n in groups if n != "position"})
    return plain.merge(same.reset_index(), on=groups, how="left")["token"]
