"""Facts of the built-in model are read at the subject early, and at the last token late."""

from pathlib import Path

import pytest

from mlux import compare, run_experiment
from mlux.errors import ParameterError, PromptError
from mlux.prompts import Prompt, PromptSet


def test_an_early_site_at_the_subject_and_a_late_one_at_the_end(fresh_db: Path) -> None:
    run = run_experiment(
        "causal_tracing", model="demo", prompts="facts:6",
        params={"sites": "resid_post", "samples": 3}, db=fresh_db,
    )  # fmt: skip
    frame = compare.layer_results([run.uid], db=fresh_db)
    frame = frame.astype({"condition": str, "metric": str})
    mean = frame.groupby(["condition", "metric"])["value"].mean()
    total = mean["restored=resid_post", "total_effect"]
    assert mean["restored=resid_post", "clean_probability"] > 0.8
    assert total > 0.6
    assert mean["restored=resid_post, control=noise_elsewhere", "total_effect"] < total / 2
    aie = frame[frame["condition"] == "restored=resid_post"].groupby(["metric", "layer"])["value"]
    subject, last = (aie.mean()[f"indirect_effect_{name}"] for name in ("subject", "last"))
    assert subject[0] > 0.8 * total
    assert last[0] < 0.2 * total
    assert subject[5] < 0.2 * total
    assert last[5] > 0.95 * total


def test_a_subject_that_is_not_there_is_refused(fresh_db: Path) -> None:
    wrong = Prompt(text="the capital of france is", subject="peru", answer="paris")
    with pytest.raises(PromptError, match="peru"):
        run_experiment(
            "causal_tracing", model="demo", prompts=PromptSet(name="wrong", prompts=(wrong,)),
            db=fresh_db,
        )  # fmt: skip
    with pytest.raises(ParameterError, match="samples is 0"):
        run_experiment("causal_tracing", model="demo", params={"samples": 0}, db=fresh_db)
