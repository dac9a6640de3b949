"""On a server every comparison gives what it gives on a file."""

from collections.abc import Callable

import pandas as pd
import pytest
from made_up import Recorded
from pandas.testing import assert_frame_equal

from mlux import compare

PLACES = ["layer", "head"]
CALLS: dict[str, Callable[[Recorded], pd.DataFrame]] = {
    "profile": lambda r: compare.profile(r.runs, metric="effect", db=r.store),
    "profile of models": lambda r: compare.profile(
        r.runs, metric="effect", per="model", by="head", db=r.store
    ),
    "heatmap": lambda r: compare.heatmap(r.runs, metric="effect", by="condition", db=r.store),
    "positions": lambda r: compare.heatmap(
        r.runs, metric="by_position", across="position", db=r.store
    ),
    "best": lambda r: compare.best(r.runs, metric="effect", top=3, db=r.store),
    "agreement": lambda r: compare.agreement(r.runs, metric="effect", db=r.store),
    "doses": lambda r: compare.dose_response(r.runs, metric="effect", controls=True, db=r.store),
    "dose of a param": lambda r: compare.dose_response(
        r.runs, metric="effect", dose="top_k", db=r.store
    ),
    "controls": lambda r: compare.controls(r.runs, metric="effect", by="layer", db=r.store),
    "diff": lambda r: compare.diff(*r.runs, metric="effect", by=PLACES, db=r.store),
    "unpaired": lambda r: compare.diff(*r.runs, metric="effect", paired=False, db=r.store),
    "pairs": lambda r: compare.pairs(*r.runs, metric="effect", db=r.store),
    "mixed": lambda r: compare.mixed(*r.runs, metric="effect", db=r.store),
    "params": lambda r: compare.params_diff(r.runs, db=r.store).loc[["param", "tag"]],
}


@pytest.mark.parametrize("name", CALLS)
def test_a_server_gives_what_a_file_gives(
    recorded_runs: Recorded, recorded_on_postgres: Recorded, name: str
) -> None:
    def named(recorded: Recorded) -> pd.DataFrame:
        table = CALLS[name](recorded)
        uids = dict(zip(recorded.runs, ("a", "b"), strict=True))
        for column in table.columns:
            if column in ("run", "run_a", "run_b"):
                table[column] = table[column].cat.rename_categories(uids)
        return table.rename(columns=uids)

    assert_frame_equal(named(recorded_runs), named(recorded_on_postgres), rtol=1e-6)
