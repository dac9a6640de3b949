"""Refusal on the built-in model is mediated by one direction; a random one does nothing."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from mlux import compare, load_artifact, prompts, run_experiment
from mlux.errors import MluxError, ParameterError
from mlux.prompts import PromptSet

NONE = "intervention=none"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("refusal") / "mlux.db")


@pytest.fixture(scope="module")
def run(db: str) -> str:
    return run_experiment("refusal_direction", model="demo", db=db).uid


@pytest.fixture(scope="module")
def rows(run: str, db: str) -> pd.DataFrame:
    return compare.layer_results([run], db=db)


def test_ablating_it_ends_refusal_and_adding_it_causes_refusal(rows: pd.DataFrame) -> None:
    rates = rows.groupby(["metric", "condition"])["value"].mean()
    harmful, harmless = rates["harmful_refused"], rates["harmless_refused"]
    assert harmful[NONE] >= 0.95
    assert harmful["intervention=ablation"] <= 0.05
    assert harmless[NONE] <= 0.05
    assert harmless["intervention=addition"] >= 0.9
    # Nothing of it is in a random direction of the same length.
    assert harmful["intervention=ablation, control=random"] >= 0.95
    assert harmless["intervention=addition, control=random"] <= 0.05
    # Nor does the ablation make a model that refuses harmless things, or the addition one less.
    assert harmless["intervention=ablation"] <= 0.05
    assert harmful["intervention=addition"] >= 0.95


def test_half_of_the_prompts_are_tested_and_nothing_else_is(rows: pd.DataFrame) -> None:
    split = rows[(rows["metric"] == "split") & (rows["condition"] == NONE)]
    assert split["value"].value_counts().to_dict() == {0: 16, 1: 8, 2: 24}
    tested = set(split[split["value"] == 2]["prompt"])
    judged = rows[rows["metric"].isin(["harmful_refused", "harmless_refused", "refusal_score"])]
    assert set(judged["prompt"]) == tested
    validated = rows[rows["metric"].isin(["bypass_score", "induce_score", "ablation_kl"])]
    assert set(validated["prompt"]) == set(split[split["value"] == 1]["prompt"])


def test_the_direction_was_chosen_by_its_scores_and_is_kept(
    rows: pd.DataFrame, run: str, db: str
) -> None:
    scores = rows.groupby(["metric", "layer", "position"], observed=True)["value"].mean()
    bypass = scores["bypass_score"]
    qualified = bypass[(scores["induce_score"] > 0) & (scores["ablation_kl"] <= 0.1)]
    qualified = qualified[qualified.index.get_level_values("layer") < 0.8 * 6]
    layer, position = qualified.idxmin()
    assert (layer, position) == (4, 10)
    assert load_artifact(db, run, "refusal_direction")["direction"].shape == (128,)
    cosine = rows[rows["metric"] == "direction_cosine"]
    assert sorted(cosine["layer"].unique()) == [0, 1, 2, 3, 4, 5]


def test_the_scores_move_with_the_direction(rows: pd.DataFrame) -> None:
    score = rows[rows["metric"] == "refusal_score"].groupby("condition")["value"].mean()
    assert score["intervention=ablation"] < score[NONE] < score["intervention=addition"]
    kl = rows[rows["metric"] == "kl"].groupby("condition")["value"].mean()
    assert kl[NONE] == 0
    assert kl["intervention=ablation, control=random"] < 0.05


def test_labels_that_do_not_fit_are_refused_before_anything_runs(db: str) -> None:
    with pytest.raises(ParameterError, match="0 prompts have the label 'evil', too few"):
        run_experiment("refusal_direction", model="demo", params={"harmful": "evil"}, db=db)
    with pytest.raises(ParameterError, match="harmful and harmless are both 'harmless'"):
        run_experiment("refusal_direction", model="demo", params={"harmful": "harmless"}, db=db)
    with pytest.raises(ParameterError, match="shares above 0 that leave some"):
        run_experiment("refusal_direction", model="demo", params={"train": 0.9}, db=db)
    with pytest.raises(ParameterError, match="A prompt has 11 tokens; positions is 12"):
        run_experiment("refusal_direction", model="demo", params={"positions": 12}, db=db)


def test_a_model_that_never_refuses_is_told_before_anything_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def searched(*args: object, **options: object) -> None:
        raise AssertionError("a direction was searched for")

    monkeypatch.setattr("mlux.methods.refusal_fit.candidate_directions", searched)
    requests = prompts.load("requests").prompts
    bare = tuple(replace(one, answer=None, wrong_answer=None) for one in requests)
    with pytest.raises(MluxError, match="refuses none of 16 prompts labelled 'harmful'"):
        run_experiment(
            "refusal_direction",
            model="demo",
            prompts=PromptSet(name="no answers", prompts=bare),
            params={"refusals": "paris"},
            db=tmp_path / "mlux.db",
        )
