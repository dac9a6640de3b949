"""Activation patching finds the heads of indirect-object identification, beside its controls."""

from pathlib import Path

import pandas as pd
import pytest

from mlux import compare, run_experiment
from mlux.errors import ParameterError, PromptError


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("patching") / "mlux.db"


def results(database: Path, **params: object) -> pd.DataFrame:
    run = run_experiment(
        "activation_patching", model="demo", prompts="ioi:8", params=params, db=database
    )
    assert run.status == "done"
    return compare.layer_results([run.uid], db=database).astype({"condition": str, "metric": str})


@pytest.fixture(scope="module")
def heads(database: Path) -> pd.DataFrame:
    return results(database, sites="head")


def of(frame: pd.DataFrame, condition: str, metric: str = "patching_effect") -> pd.DataFrame:
    return frame[(frame["condition"] == condition) & (frame["metric"] == metric)]


def test_the_top_heads_together_explain_the_logit_difference(heads: pd.DataFrame) -> None:
    """Chosen on other prompts; random heads of the same number do nothing."""
    explained = of(heads, "site=top_heads")["value"]
    assert len(explained) == 8
    assert explained.mean() >= 0.8
    assert abs(of(heads, "site=top_heads, control=random")["value"].mean()) <= 0.2
    assert of(heads, "site=top_heads", "kl_to_clean")["value"].mean() < 0.1
    assert of(heads, "site=top_heads", "answer_probability")["value"].mean() > 0.9


def test_the_heads_of_the_circuit_stand_out(heads: pd.DataFrame) -> None:
    means = of(heads, "site=head").groupby(["layer", "head"])["value"].mean()
    assert set(means.nlargest(3).index) == {(1, 1), (2, 0), (2, 3)}
    assert means.nlargest(4).iloc[3] < 0.15


def test_a_run_patched_into_itself_is_exactly_itself(heads: pd.DataFrame) -> None:
    itself = of(heads, "site=head, control=self")["value"]
    assert len(itself) == 8 * 24
    assert (itself == 0.0).all()


def test_noising_finds_the_same_heads_and_patches_the_clean_run(database: Path) -> None:
    frame = results(database, sites="head", direction="noising", controls=False)
    means = of(frame, "site=head").groupby(["layer", "head"])["value"].mean()
    assert set(means.nlargest(3).index) == {(1, 1), (2, 0), (2, 3)}
    weakest = means.abs().idxmin()
    untouched = of(frame, "site=head", "logit_diff").set_index(["layer", "head"])["value"]
    clean = of(frame, "site=head", "logit_diff")["value"].max()
    assert untouched.loc[weakest].mean() > clean / 2  # a patch of nothing leaves the clean run
    assert of(frame, "site=top_heads")["value"].mean() >= 0.8


def test_queries_keys_values_and_patterns_of_heads(database: Path) -> None:
    """Heads 2.0 and 2.3 look elsewhere in the other prompt; head 1.1 reads something else there."""
    frame = results(database, sites="q,k,v,pattern", controls=False)
    means = {
        site: of(frame, f"site={site}").groupby(["layer", "head"])["value"].mean()
        for site in ("q", "k", "v", "pattern")
    }
    assert all(means[site].idxmax()[0] in (1, 2) for site in means)
    assert set(means["pattern"].nlargest(2).index) == {(2, 0), (2, 3)}
    assert means["pattern"].nlargest(2).sum() > 0.5
    assert means["pattern"].nlargest(3).iloc[2] < 0.05
    assert means["v"].idxmax() == (1, 1)
    assert means["v"].max() > 0.8
    assert set(means["q"].nlargest(2).index) == {(2, 0), (2, 3)}
    assert means["q"].nlargest(2).to_list() == pytest.approx(
        means["pattern"].nlargest(2).to_list(), abs=0.05
    )  # where they look is what they ask for
    assert means["q"].nlargest(3).iloc[2] < 0.05
    assert means["k"].abs().max() < 0.05


def test_the_induction_heads_ask_elsewhere_at_the_last_token_alone(database: Path) -> None:
    """Their queries there have the effect of their queries everywhere, and no other query has."""
    frame = results(database, sites="q", controls=False, top_heads=0, head_positions="each")
    effects = of(frame, "site=q")
    at_the_end = effects["position"] == effects.groupby("prompt")["position"].transform("max")
    last = effects[at_the_end].groupby(["layer", "head"])["value"].mean()
    assert set(last.nlargest(2).index) == {(2, 0), (2, 3)}
    assert last.nlargest(2).min() > 0.2
    assert effects[~at_the_end]["value"].abs().max() < 0.05


def test_patterns_query_by_query_beside_their_controls(database: Path) -> None:
    """They matter at the last token; the run itself changes nothing, to the last bit."""
    run = run_experiment(
        "activation_patching", model="demo", prompts="ioi:1", db=database,
        params={"sites": "pattern", "head_positions": "each", "top_heads": 0},
    )  # fmt: skip
    frame = compare.layer_results([run.uid], db=database)
    frame = frame.astype({"condition": str, "metric": str})
    effects = of(frame, "site=pattern")
    n_tokens = effects["position"].nunique()
    assert len(effects) == 24 * n_tokens
    best = effects.loc[effects["value"].idxmax()]
    assert (best["layer"], best["position"]) == (2, n_tokens - 1)
    assert (of(frame, "site=pattern, control=self")["value"] == 0.0).all()
    assert len(of(frame, "site=pattern, control=random")) == 24 * n_tokens


def test_what_cannot_be_chosen_on_other_prompts_is_refused(database: Path) -> None:
    with pytest.raises(PromptError, match="give at least two, or -p top_heads=0"):
        run_experiment("activation_patching", model="demo", prompts="ioi:1", db=database)
    with pytest.raises(ParameterError, match="top_heads is -1"):
        run_experiment("activation_patching", model="demo", params={"top_heads": -1}, db=database)
