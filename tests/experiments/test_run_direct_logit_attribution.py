"""What direct logit attribution finds on the built-in model, beside its control."""

from pathlib import Path

import pandas as pd
import pytest

from mlux import compare, run_experiment

CONTROL = "control=random_tokens"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    db = tmp_path_factory.mktemp("dla") / "mlux.db"
    run = run_experiment("direct_logit_attribution", model="demo", prompts="ioi:32", db=db)
    return tidy(run.uid, db)


def tidy(run: str, db: Path) -> pd.DataFrame:
    frame = compare.layer_results([run], db=db)
    frame["control"] = frame["condition"].astype(str) == CONTROL
    return frame


def mean_by_head(results: pd.DataFrame) -> pd.Series:
    heads = results[results["metric"] == "head_contribution"]
    return heads.groupby(["layer", "head"])["value"].mean()


def test_contributions_sum_to_the_stored_logit_difference(results: pd.DataFrame) -> None:
    """Added up from the rows themselves, prompt by prompt."""
    shares = results[results["metric"].astype(str).str.endswith("_contribution")]
    keys = ["prompt", "control"]
    total = shares.groupby(keys, observed=True)["value"].sum()
    whole = results[results["metric"] == "logit_diff"].groupby(keys, observed=True)["value"].sum()
    assert len(whole) == 64
    assert (total - whole).abs().max() <= 1e-3
    assert results[results["metric"] == "unexplained"]["value"].max() <= 1e-3


def test_the_induction_heads_and_mlp_3_write_the_name(results: pd.DataFrame) -> None:
    """Heads 2.0 and 2.3 copy the name; the control's tokens get nothing from anybody."""
    real, control = results[~results["control"]], results[results["control"]]
    heads = mean_by_head(real).sort_values(ascending=False)
    assert set(heads.index[:2]) == {(2, 0), (2, 3)}
    assert heads.iloc[1] >= 1.0 > 3 * heads.iloc[2]
    assert mean_by_head(control).abs().max() <= 0.5
    mlps = real[real["metric"] == "mlp_contribution"].groupby("layer")["value"].mean()
    assert mlps.idxmax() == 3
    assert mlps.max() >= 0.4 * real[real["metric"] == "logit_diff"]["value"].mean()
