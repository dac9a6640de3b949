"""The built-in model's known heads, on repeated words and on ordinary sentences."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlux import compare, run_experiment
from mlux.store import artifacts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    db = tmp_path_factory.mktemp("attention") / "mlux.db"
    params = {"store_patterns": True}
    done = run_experiment(
        "attention_patterns", model="demo", prompts="induction:16", params=params, db=db
    )
    return done.uid, db


def heads(run: tuple[str, Path], metric: str, condition: str = "") -> pd.Series:
    frame = compare.layer_results([run[0]], metric=metric, db=run[1])
    frame = frame[frame["condition"].astype(str) == condition]
    return frame.groupby(["layer", "head"])["value"].mean().sort_values(ascending=False)


def test_head_1_0_looks_at_the_previous_token_whatever_the_order(run: tuple[str, Path]) -> None:
    for condition in ("", "control=shuffled"):
        found = heads(run, "previous_token_attention", condition)
        assert found.index[0] == (1, 0)
        assert found.iloc[0] >= 0.9 > 2 * found.iloc[1]


def test_the_induction_heads_look_at_what_followed_a_repeated_word(run: tuple[str, Path]) -> None:
    found = heads(run, "successor_attention")
    assert set(found.index[:2]) == {(2, 0), (2, 3)}
    assert found.iloc[1] >= 0.9 > 5 * found.iloc[2]


def test_no_head_looks_at_the_repeated_word_itself(run: tuple[str, Path]) -> None:
    assert heads(run, "repeated_token_attention").iloc[0] <= 0.1


def test_patterns_are_kept_with_their_trials(run: tuple[str, Path]) -> None:
    uid, db = run
    arrays = artifacts.load(str(db), uid, "patterns", trial=0)
    assert sorted(arrays) == [f"layer.{layer}" for layer in range(6)]
    pattern = arrays["layer.1"]
    assert pattern.shape[0] == 4
    assert np.allclose(pattern.sum(axis=-1), 1.0, atol=1e-5)
    frame = compare.layer_results([uid], metric="previous_token_attention", db=db)
    stored = frame[(frame["layer"] == 1) & (frame["head"] == 0)]["value"]
    diagonal = pattern[0][np.arange(1, pattern.shape[1]), np.arange(pattern.shape[1] - 1)]
    assert np.abs(stored - diagonal.mean()).min() <= 1e-5
