"""Sentiment steering on the built-in model: the register flips, and a random direction does not."""

from pathlib import Path

import pandas as pd
import pytest

from mlux import compare, prompts, run_experiment
from mlux.engine import HookedModel
from mlux.errors import ParameterError
from mlux.methods.contrast import before_subject

ALPHAS = (-0.75, -0.5, 0.0, 0.5, 0.75)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("steering") / "mlux.db")


def steer(db: str, **params: object) -> str:
    return run_experiment(
        "steering", model="demo", prompts="reviews", params=params, batch_size=64, db=db
    ).uid


@pytest.fixture(scope="module")
def doses(db: str) -> str:
    return steer(db, alphas=ALPHAS, calibrate=None, control=False, max_tokens=12)


@pytest.fixture(scope="module")
def calibrated(db: str) -> str:
    """Several samples of each prompt, so that a share near 0.9 is known to a few per cent."""
    return steer(db, alphas=(0.0,), samples=3, max_tokens=12)


def means(run: str, db: str) -> "pd.Series[float]":
    """(metric, condition without the layer) → mean over prompts."""
    rows = compare.layer_results([run], db=db)
    rows["condition"] = rows["condition"].str.replace("layer=4, ", "")
    return rows.groupby(["metric", "condition"])["value"].mean()


def test_the_calibrated_strength_flips_the_register_and_a_random_direction_does_not(
    calibrated: str, db: str
) -> None:
    positive = means(calibrated, db)["positive_register"]
    assert positive["calibrated=positive"] >= 0.9
    assert positive["calibrated=negative"] <= 0.1
    unsteered = positive["alpha=0"]
    assert 0.4 < unsteered < 0.8
    for label in ("positive", "negative"):
        assert abs(positive[f"calibrated={label}, control=random"] - unsteered) < 0.25


def test_the_dose_response_is_monotone(doses: str, db: str) -> None:
    found = means(doses, db)
    for metric in ("positive_register", "contrast_logit_diff", "judge_logit_diff"):
        curve = [found[metric][f"alpha={alpha:g}"] for alpha in ALPHAS]
        assert curve == sorted(curve), metric
        assert curve[-1] > curve[0]


def test_the_calibrated_strength_is_reported_for_each_block_with_its_effect(
    calibrated: str, db: str
) -> None:
    rows = compare.layer_results([calibrated], db=db)
    by_layer = rows.groupby(["metric", "layer"])["value"].mean()
    assert sorted(by_layer["calibrated_strength"].index) == [0, 1, 2, 3, 4, 5]
    assert 0.5 < by_layer["calibrated_strength"][4] < 1.0
    assert (by_layer["calibrated_effect"][1:] >= 0.85).all()
    assert by_layer["calibrated_effect"][0] < 0.85  # the first block cannot do it at any strength
    assert 15 < by_layer["resid_norm"][4] < 40


def test_too_much_of_it_costs_coherence_and_the_price_is_stored(doses: str, db: str) -> None:
    found = means(doses, db)
    loss = found["text_loss"]
    assert loss["alpha=0"] < 1.6
    assert loss["alpha=0.5"] < 2.0
    assert loss["alpha=0.75"] > loss["alpha=0.5"]
    assert 0 <= found["repetition"]["alpha=0"] < 0.1
    assert found["distinct_1"]["alpha=0"] > 0.8


def test_at_alpha_0_the_text_is_the_unsteered_one_token_by_token(db: str) -> None:
    model = HookedModel.from_pretrained("demo")
    greedy = run_experiment(
        "steering",
        model="demo",
        prompts="reviews:8",
        params={"alphas": (0.0,), "calibrate": None, "temperature": 0.0, "max_tokens": 8},
        db=db,
    )
    stored = compare.generations([greedy.uid], db=db).set_index("prompt")["text"]
    for prompt in prompts.load("reviews:8").prompts:
        start = before_subject(prompt).text
        assert stored[prompt.text] == model.generate(start, max_tokens=8, stop="rating")


def test_several_blocks_one_by_one_or_together_and_other_methods(db: str) -> None:
    few = {"alphas": (0.3,), "max_tokens": 2, "control": False, "calibrate": 0.7}
    options = {"layers": (3, 4), "method": "probe"}
    apart, joint = (
        run_experiment(
            "steering",
            model="demo",
            prompts="reviews:8",
            params=few | options | {"together": together},
            db=db,
        )
        for together in (False, True)
    )
    rows = [compare.layer_results([one.uid], db=db) for one in (apart, joint)]
    assert {c.split(",")[0] for c in rows[0]["condition"]} == {"layer=3", "layer=4"}
    assert {c.split(",")[0] for c in rows[1]["condition"]} == {"layer=3+4"}
    towards = [
        frame[
            (frame["metric"] == "strength") & frame["condition"].str.endswith("calibrated=positive")
        ]
        for frame in rows
    ]
    # Two blocks together need less of each than either alone.
    alone = towards[0].groupby("condition")["value"].mean().min()
    assert towards[1]["value"].mean() < alone


def test_prompts_that_tell_no_contrast_are_refused_before_anything_runs(
    db: str, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match="0 prompts have the label 'happy'"):
        run_experiment("steering", model="demo", params={"positive": "happy"}, db=db)
    bare = tmp_path / "bare.jsonl"
    bare.write_text(
        "\n".join(
            f'{{"text": "the {word} was", "label": "{label}"}}'
            for label, words in (("positive", ("food", "film")), ("negative", ("room", "game")))
            for word in words
        )
    )
    with pytest.raises(ParameterError, match="no effect to calibrate to"):
        run_experiment("steering", model="demo", prompts=str(bare), db=db)
    with pytest.raises(ParameterError, match="there is no block 6; this model has 0 to 5"):
        run_experiment("steering", model="demo", params={"layers": (6,)}, db=db)
    with pytest.raises(ParameterError, match=r"it has to contain \{generation\}"):
        run_experiment("steering", model="demo", params={"judge": "good ?"}, db=db)
