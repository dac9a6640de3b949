"""Path patching finds the previous-token head behind the keys of the induction heads."""

from pathlib import Path

import pytest

from mlux import compare, run_experiment
from mlux.errors import ParameterError


def test_the_previous_token_head_acts_by_way_of_the_keys(fresh_db: Path) -> None:
    run = run_experiment("path_patching", model="demo", prompts="induction:4", db=fresh_db)
    assert run.status == "done"
    frame = compare.layer_results([run.uid], metric="path_effect", db=fresh_db)
    frame["condition"] = frame["condition"].astype(str)
    itself = frame[frame["condition"] == "receiver=logits, control=self"]["value"]
    assert len(itself) == 4 * (24 + 6)
    assert (itself == 0.0).all()
    frame = frame[frame["head"].notna()]  # without a head the sender is an MLP
    means = frame.groupby(["condition", "layer", "head"])["value"].mean()
    keys, values = means["receiver=k"], means["receiver=v"]
    assert keys.idxmax() == (1, 0)
    assert keys.max() > 0.8
    assert keys.drop((1, 0)).abs().max() < 0.1
    assert values.idxmax() == (1, 1)
    assert means["receiver=q"].abs().max() < 0.1
    assert means["receiver=k, control=random"].abs().max() < 0.3
    assert set(means["receiver=logits"].nlargest(2).index) == {(2, 0), (2, 3)}


def test_what_the_model_lacks_is_refused(fresh_db: Path) -> None:
    for params, message in (
        ({"heads": "7.0"}, "no head 7.0"),
        ({"through": "6"}, "no layer 6"),
        ({"top_k": 0}, "top_k is 0"),
        ({"heads": "a"}, "expected layer.head"),
    ):
        with pytest.raises(ParameterError, match=message):
            run_experiment(
                "path_patching", model="demo", prompts="induction:2", params=params, db=fresh_db
            )
