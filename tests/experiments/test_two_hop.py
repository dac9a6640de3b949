"""What two-hop questions, back-patching and entity binding show of the built-in model."""

from pathlib import Path

import pandas as pd
import pytest

from mlux import compare, prompts, run_experiment
from mlux.errors import PromptError
from mlux.prompts import Prompt, PromptSet

Frame = pd.DataFrame


def run(name: str, folder: Path, chosen: PromptSet | str, **params: str) -> Frame:
    db = folder / "two_hop.db"
    done = run_experiment(name, model="demo", prompts=chosen, params=params, db=db)
    assert done.status == "done"
    return compare.layer_results(done.uid, db=db).astype({"condition": str, "metric": str})


def values(
    results: Frame, metric: str, condition: str, layer: int | None = None
) -> "pd.Series[float]":
    """One value a prompt; `condition` as the run's table names it."""
    rows = results[(results["metric"] == metric) & (results["condition"] == condition)]
    if layer is not None:
        rows = rows[rows["layer"] == layer]
    assert len(rows), (metric, condition, set(results["condition"]))
    return rows.set_index("prompt")["value"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two_hop")


@pytest.fixture(scope="module")
def lens(folder: Path) -> Frame:
    return run("two_hop", folder, "two_hop")


def test_the_bridge_appears_at_the_subject_first(lens: Frame) -> None:
    """Block 0 turns a person into the country; at the subject's last token, not yet at the end."""
    bridge = values(lens, "entity_rank", "at=subject, entity=bridge", layer=0)
    control = values(
        lens, "entity_rank", "at=subject, entity=bridge, control=other_prompt", layer=0
    )
    assert bridge.median() <= 10
    assert control.median() >= 200
    assert (bridge < control).mean() >= 0.9
    last = values(lens, "entity_rank", "at=last, entity=bridge", layer=0)
    assert last.median() >= 200


def test_the_bridge_shows_at_the_end_but_never_first(lens: Frame) -> None:
    """The model card: by the lens the country never ranks first at the last token."""
    ranks = [
        values(lens, "entity_rank", "at=last, entity=bridge", layer=layer).median()
        for layer in range(6)
    ]
    assert 1 <= min(ranks) <= 10
    best = values(lens, "best_entity_rank", "at=last, entity=bridge")
    control = values(lens, "best_entity_rank", "at=last, entity=bridge, control=other_prompt")
    assert (best < control).mean() >= 0.9
    assert control.median() >= 100


def test_the_answer_comes_after_the_bridge_and_at_the_end_only(lens: Frame) -> None:
    at_the_end = values(lens, "entity_rank", "at=last, entity=answer", layer=5)
    assert (at_the_end == 0).mean() >= 0.9  # the card's two-hop accuracy is .928
    other = values(lens, "entity_rank", "at=last, entity=answer, control=other_prompt", layer=5)
    assert (other == 0).mean() == 0
    at_the_subject = values(lens, "best_entity_rank", "at=subject, entity=answer")
    assert (at_the_subject == 0).mean() <= 0.1


def test_back_patching(folder: Path) -> None:
    """A layer put into itself changes not one bit; another prompt's destroys the answer."""
    results = run("back_patching", folder, "two_hop", places="last")
    gain = results[results["metric"] == "probability_gain"]
    own = gain[gain["condition"].str.contains("control=self")]
    assert (own["value"] == 0.0).all()
    assert set(own["layer"]) == {1, 2, 3, 4, 5}
    others = gain[gain["condition"].str.contains("control=other_prompt")]
    patched = gain[~gain["condition"].str.contains("control")]
    assert len(patched) == 69 * (1 + 2 + 3 + 4 + 5), "every later layer into every earlier one"
    assert (patched["value"] != 0.0).mean() > 0.99, "it is a patch"
    assert others["value"].mean() < -0.7 < -0.1 < patched["value"].mean()
    # Wrong answers: too few for more than the direction. Right ones survive, but for the control.
    before = results[results["metric"] == "unpatched_accuracy"].groupby("prompt")["value"].first()
    correct = results[results["metric"] == "accuracy"]
    control = correct["condition"].str.extract("control=(.*)")[0].fillna("none")
    mended = correct.groupby(["prompt", control])["value"].max().unstack()  # by any pair of layers
    wrong, right = mended[before == 0], mended[before == 1]
    assert len(wrong) == 5
    assert wrong.sum().to_dict() == {"none": 1, "other_prompt": 0, "self": 0}
    assert right["none"].mean() == 1.0
    assert right["other_prompt"].mean() < 0.15
    everywhere = correct[control == "none"].groupby("prompt")["value"].mean()
    assert everywhere[before == 1].mean() > 0.9
    best = patched.groupby("prompt")["value"].max()
    assert best[before == 0].gt(0).all(), "some pair of layers helps each of them"
    assert (others.groupby("prompt")["value"].max()[before == 0] < 0).all()


def test_entities_are_bound_by_their_vectors_after_the_first_block(folder: Path) -> None:
    results = run("entity_binding", folder, "two_hop_in_context:32")
    words = values(results, "exchange_effect", "exchange=attributes", layer=0)
    solved = int(values(results, "baseline_solved", "exchange=attributes").sum())
    assert 24 <= solved < 32  # the others are not divided by what they lack
    assert words.to_list() == pytest.approx([1.0] * solved, abs=1e-3)  # the corrupted prompt
    for what in ("entities", "attributes"):
        condition = f"exchange={what}"
        follows = [
            values(results, "follows_exchange", condition, layer=layer).mean() for layer in (0, 2)
        ]
        assert follows[0] >= 0.85
        assert follows[1] <= 0.2
        late = values(results, "exchange_effect", condition, layer=2)
        assert late.abs().max() <= 0.1
        control = f"{condition}, control=random_positions"
        assert values(results, "follows_exchange", control, layer=0).mean() <= 0.25
    both = values(results, "follows_exchange", "exchange=both", layer=0)
    assert both.mean() <= 0.25  # the same bindings in another order


def test_what_they_cannot_use_is_refused(folder: Path) -> None:
    one = prompts.load("two_hop").prompts[:1]
    with pytest.raises(PromptError, match="two_hop needs prompts with more than one bridge"):
        run("two_hop", folder, PromptSet(name="one", prompts=one))
    bare = PromptSet(name="bare", prompts=(Prompt(text="helen lives in", answer="angola"),))
    with pytest.raises(PromptError, match="needs corrupted and answer"):
        run("entity_binding", folder, bare)
