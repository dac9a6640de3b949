"""Function vectors on the built-in model: what they are known to do there, and their controls."""

from pathlib import Path

import pandas as pd
import pytest

from mlux import compare, run_experiment
from mlux.errors import MluxError, ParameterError
from mlux.prompts import Prompt, PromptSet
from mlux.store import Store, artifacts, load_run

# Inputs are countries or cities, outputs continents or peoples.
PARALLELOGRAM = (
    "city_continent=continent+city_people-demonym,demonym=city_people+continent-city_continent"
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    db = tmp_path_factory.mktemp("function_vectors") / "mlux.db"
    params = {"compose": f"city_people=country_of+demonym,{PARALLELOGRAM}"}
    run = run_experiment("function_vectors", model="demo", params=params, db=db)
    assert run.status == "done"
    return run.uid, db


@pytest.fixture(scope="module")
def accuracy(found: tuple[str, Path]) -> pd.DataFrame:
    """The accuracy of every task, [task, (condition, layer)]; layer −1 without a vector."""
    uid, db = found
    results = compare.layer_results([uid], metric="accuracy", db=db)
    with Store.open(db) as store:
        tasks = {p.text: p.label for p in load_run(store, uid).prompts.prompts}
    results["task"] = results["prompt"].astype(str).map(tasks)
    results["layer"] = results["layer"].fillna(-1).astype(int)
    return results.pivot_table(
        index="task", columns=["condition", "layer"], values="value", observed=True
    )


def test_baselines_are_those_of_the_model_card(accuracy: pd.DataFrame) -> None:
    mean = accuracy.mean()
    assert mean["context=few_shot", -1] >= 0.95
    assert mean["context=zero_shot", -1] <= 0.15
    # The labels of few-shot prompts matter little to this model; which tasks are mixed does.
    assert mean["context=shuffled", -1] >= 0.95
    assert mean["context=corrupted", -1] <= 0.2


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_vector_makes_the_model_do_the_task_without_examples(
    accuracy: pd.DataFrame, layer: int
) -> None:
    gain = accuracy["context=zero_shot, vector=function", layer] - accuracy["context=zero_shot", -1]
    assert (gain >= 0.5).sum() >= 10
    assert gain.mean() >= 0.5


def test_controls_do_not(accuracy: pd.DataFrame) -> None:
    """Random heads, and the same heads over prompts that show no task."""
    gains = accuracy.sub(accuracy["context=zero_shot", -1], axis=0).mean()
    controls = [
        name for name, _ in gains.index if "context=zero_shot" in name and "control=" in name
    ]
    assert {name.rpartition("=")[2] for name in controls} == {
        "corrupted prompts",
        *(f"random heads {draw}" for draw in (1, 2, 3)),
    }
    assert gains[controls].max() <= 0.1


def test_it_works_in_corrupted_and_in_natural_text(accuracy: pd.DataFrame) -> None:
    mean = accuracy.mean()
    for context in ("corrupted", "natural"):
        before = mean[f"context={context}", -1]
        assert mean[f"context={context}, vector=function", 1] - before >= 0.4


@pytest.mark.parametrize("context", ["corrupted", "shuffled", "natural"])
def test_random_heads_are_a_control_wherever_the_vector_is_tried(
    accuracy: pd.DataFrame, context: str
) -> None:
    tried = f"context={context}, vector=function"
    before = accuracy.mean()[f"context={context}", -1]
    assert accuracy.mean()[f"{tried}, control=random heads 1"].max() - before <= 0.1


def test_controls_are_linked_to_what_they_control(found: tuple[str, Path]) -> None:
    uid, db = found
    against = compare.controls([uid], metric="probability_gain", db=db)
    tried = against[against["condition"].astype(str).str.endswith("vector=function")]
    assert len(tried) == 4
    assert (tried["n_controls"] >= 1).all()


def test_the_gain_is_the_probability_with_the_vector_minus_without(
    found: tuple[str, Path],
) -> None:
    uid, db = found
    keys = ["prompt", "condition", "layer"]
    gain = compare.layer_results([uid], metric="probability_gain", db=db).set_index(keys)["value"]
    after = compare.layer_results([uid], metric="answer_probability", db=db)
    without = after[after["condition"].astype(str) == "context=natural"].set_index("prompt")
    rows = gain.index[
        gain.index.get_level_values("condition") == "context=natural, vector=function"
    ]
    after = after.set_index(keys)["value"]
    difference = after[rows] - without["value"].reindex(rows.get_level_values("prompt")).to_numpy()
    assert len(rows) == 167 * 6  # one of 168 prompts is not solved after its examples
    assert (gain[rows] - difference).abs().max() <= 1e-4


def test_the_parallelogram_makes_the_fourth_corner(
    found: tuple[str, Path], accuracy: pd.DataFrame
) -> None:
    composed = accuracy["context=zero_shot, vector=composed"]
    assert (composed.loc[["city_continent", "demonym"], 1] >= 0.75).all()
    uid, db = found
    own = artifacts.load(db, uid, "function_vectors")
    made = artifacts.load(db, uid, "composed_vectors")
    assert len(made) == 3 * 2
    for half in (0, 1):
        v = {task: own[f"{task} half {half}"] for task in ("continent", "city_people", "demonym")}
        by_hand = v["continent"] + v["city_people"] - v["demonym"]
        assert (made[f"city_continent half {half}"] == by_hand).all()


@pytest.mark.parametrize("corrupt", ["mixed", "shuffled"])
def test_both_corruptions_have_a_baseline(corrupt: str, tmp_path: Path) -> None:
    db = tmp_path / "mlux.db"
    params = {"corrupt": corrupt, "n_prompts": "4", "n_random": "1", "natural": "none"}
    uid = run_experiment("function_vectors", model="demo", params=params, db=db).uid
    results = compare.layer_results([uid], metric="accuracy", db=db)
    mean = results.groupby("condition", observed=True)["value"].mean()
    other = {"mixed": "shuffled", "shuffled": "mixed"}[corrupt]
    baselines = {corrupt: mean["context=corrupted"], other: mean[f"context={other}"]}
    assert baselines["shuffled"] >= 0.95
    assert baselines["mixed"] <= 0.25


def test_composition_by_a_sum_does_not_work_here(accuracy: pd.DataFrame) -> None:
    """The page says so: the vector of the second task alone does it."""
    composed = accuracy["context=zero_shot, vector=composed"].dropna()
    assert list(composed.index) == ["city_continent", "city_people", "demonym"]
    own = accuracy["context=zero_shot, vector=function"].loc["city_people"]
    assert composed.loc["city_people"].max() <= 0.3 < own.max()


def test_few_heads_carry_the_task(found: tuple[str, Path]) -> None:
    uid, db = found
    effects = compare.layer_results([uid], metric="indirect_effect", db=db)
    aie = effects.groupby(["layer", "head"], observed=True)["value"].mean()
    assert {place for place, value in aie.items() if value >= 0.05} == {
        (0, 1),
        (1, 3),
        (3, 2),
        (3, 3),
    }
    assert aie.abs().median() <= 0.01
    kept = artifacts.load(db, uid, "function_vectors")
    assert len(kept) == 2 * 21
    assert all(vector.shape == (128,) for vector in kept.values())


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    def run(**params: str) -> None:
        few = PromptSet(
            name="few",
            prompts=tuple(
                Prompt(text=f"{x} →", corrupted=f"{x} →", answer="cold", label="antonym")
                for x in ("hot", "warm", "big")
            ),
        )
        prompts = few if "prompts" in params else None
        params.pop("prompts", None)
        run_experiment(
            "function_vectors", model="demo", params=params, prompts=prompts, db=tmp_path / "x.db"
        )

    with pytest.raises(ParameterError, match=r"natural is 'the word is'; say with \{x\} where"):
        run(natural="the word is")
    with pytest.raises(ParameterError, match="compose has 'capital'; write it as in task=a"):
        run(compose="capital")
    with pytest.raises(MluxError, match=r"at least 4 prompts of each task.*'antonym' has 3"):
        run(prompts="few")
    with pytest.raises(MluxError, match=r"No task named 'capitol'\. Did you mean 'capital'"):
        run(compose="city_people=demonym-capitol", n_prompts="4")
    with pytest.raises(ParameterError, match="compose has 'capital' twice"):
        run(compose="capital=past+plural,capital=past-plural")
