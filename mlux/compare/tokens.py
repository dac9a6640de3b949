"""The exact tokens that a run read, to put below a chart or beside a number."""

import pandas as pd

from mlux.store import frames
from mlux.store.frames import Database, Runs


def tokens(runs: Runs, *, role: str = "clean", db: Database = None) -> pd.DataFrame:
    """The tokens of each prompt as they were run, one a row.

    Args:
        runs: A run, or several.
        role: `clean`, or `corrupted` for the text that a patch starts from.
        db: The notebook.

    Returns:
        `run experiment model prompt condition position token`; no rows if no prompt has the role.

    Raises:
        UnknownNameError: If there is no such run.

    Example:
        >>> int(tokens("latest:logit_lens", db="mlux.db.example")["position"].min())
        0
    """
    with frames.opened(db) as store, store.reading() as connection:
        keys = frames.run_keys(store, connection, runs)
        query = f"""
        SELECT v.run_id, r.experiment_id, r.model_id, t.prompt_id, t.condition_id, v.position,
          v.token FROM trial_tokens AS v {frames.FROM_TRIALS} AND v.role IN :roles
        ORDER BY v.run_id, v.trial, v.position
        """
        values = {"runs": list(keys.values()), "roles": [role]}
        names = "run experiment model prompt condition position token"
        return frames.frame(connection, query, values, names)
