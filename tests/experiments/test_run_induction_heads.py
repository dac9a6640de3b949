"""Induction heads of the built-in model, beside sequences that do not repeat."""

from pathlib import Path

import pandas as pd
import pytest

from mlux import compare, run_experiment
from mlux.errors import ParameterError
from mlux.store import Store, query

CONTROL = "control=no_repeat"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    db = tmp_path_factory.mktemp("induction") / "mlux.db"
    params = {"n_sequences": 8}
    return run_experiment("induction_heads", model="demo", params=params, db=db).uid, db


def heads(run: tuple[str, Path], metric: str, condition: str = "") -> pd.Series:
    frame = compare.layer_results([run[0]], metric=metric, db=run[1])
    frame = frame[frame["condition"].astype(str) == condition]
    return frame.groupby(["layer", "head"])["value"].mean().sort_values(ascending=False)


def test_the_model_continues_a_repetition_and_nothing_else(run: tuple[str, Path]) -> None:
    frame = compare.layer_results([run[0]], metric="second_repeat_accuracy", db=run[1])
    accuracy = frame.groupby(frame["condition"].astype(str))["value"].mean()
    assert accuracy[""] >= 0.7
    assert accuracy[CONTROL] <= 0.05


def test_heads_2_0_and_2_3_need_the_repetition(run: tuple[str, Path]) -> None:
    """Without it the same place, the token after the one a period ago, gets next to nothing."""
    real, control = (heads(run, "prefix_matching_score", c) for c in ("", CONTROL))
    assert set(real.index[:2]) == {(2, 0), (2, 3)}
    assert real.iloc[1] >= 0.5
    assert control.max() <= 0.1


def test_head_1_0_looks_at_the_previous_token_either_way(run: tuple[str, Path]) -> None:
    for condition in ("", CONTROL):
        found = heads(run, "previous_token_score", condition)
        assert found.index[0] == (1, 0)
        assert found.iloc[0] >= 0.6


def test_no_head_looks_for_duplicates(run: tuple[str, Path]) -> None:
    """The built-in model has no duplicate-token heads."""
    assert heads(run, "duplicate_token_score").iloc[0] <= 0.2


def test_the_tokens_of_the_control_are_kept_and_do_not_repeat(run: tuple[str, Path]) -> None:
    sql = "SELECT trial, role, position, token FROM trial_tokens"
    with Store.open(run[1]) as store:
        columns, rows = query(store, sql)
    frame = pd.DataFrame(rows, columns=columns)
    assert frame[frame["role"] == "no_repeat"]["trial"].nunique() == 8
    for (_, role), tokens in frame.groupby(["trial", "role"]):
        assert len(tokens) == 41
        assert tokens["token"].duplicated().sum() == (20 if role == "clean" else 0)


def test_a_vocabulary_too_small_is_refused(fresh_db: Path) -> None:
    with pytest.raises(ParameterError, match="induction_heads: The period is 1800, but this"):
        run_experiment("induction_heads", model="demo", params={"period": 900}, db=fresh_db)
