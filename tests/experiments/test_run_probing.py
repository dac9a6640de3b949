"""Sentiment is read off the built-in model's residual stream, far better than random labels."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlux import compare, prompts, run_experiment
from mlux.engine import HookedModel, sites
from mlux.engine.arrays import to_numpy
from mlux.engine.trials import encode
from mlux.errors import PromptError
from mlux.store import artifacts

CONTROL = "control=random_labels"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probing") / "mlux.db"


@pytest.fixture(scope="module")
def runs(db: Path) -> dict[str, str]:
    return {
        split: run_experiment("probing", model="demo", params={"split": split}, db=db).uid
        for split in ("prompts", "types")
    }


def accuracy(run: str, db: Path) -> pd.DataFrame:
    frame = compare.layer_results([run], metric="probe_correct", db=db)
    frame["condition"] = frame["condition"].astype(str)
    return frame.groupby(["layer", "condition"])["value"].mean().unstack("condition")


def test_sentiment_of_new_adjectives_is_read_far_above_the_control(
    runs: dict[str, str], db: Path
) -> None:
    """From block 1 on every review by adjectives that the probe has never seen."""
    found = accuracy(runs["types"], db)
    assert (found[""][1:] >= 0.95).all()
    assert (found[""] - found[CONTROL] >= 0.25).all()
    assert (found[CONTROL] <= 0.65).all()


def test_random_labels_of_known_adjectives_are_memorised(runs: dict[str, str], db: Path) -> None:
    """Which is what the control is for: only the difference speaks for sentiment."""
    found = accuracy(runs["prompts"], db)
    assert (found[""][1:] >= 0.95).all()
    assert (found[CONTROL] >= 0.65).all()
    assert (found[""] - found[CONTROL] >= 0.1).all()


def test_selectivity_is_the_difference(runs: dict[str, str], db: Path) -> None:
    frame = compare.layer_results([runs["prompts"]], metric="selectivity", db=db)
    by_layer = frame.groupby("layer")["value"].mean()
    found = accuracy(runs["prompts"], db)
    assert (by_layer - (found[""] - found[CONTROL])).abs().max() <= 1e-9


def test_the_kept_probe_reads_a_review(runs: dict[str, str], db: Path) -> None:
    arrays = artifacts.load(str(db), runs["prompts"], "probes")
    labels = artifacts.load_metadata(str(db), runs["prompts"], "probes")["labels"].split("\n")
    model = HookedModel.from_pretrained("demo")
    for prompt in prompts.load("reviews").prompts[:4]:
        _, cache = model.run_with_cache(list(encode(model, prompt).ids), [sites.resid_post(4)])
        resid = to_numpy(cache[sites.resid_post(4)])[0, -1]
        scores = arrays["layer.4.weight"] @ resid + arrays["layer.4.bias"]
        assert labels[int(np.argmax(scores))] == prompt.label


def test_a_label_with_too_few_prompts_is_refused(fresh_db: Path) -> None:
    with pytest.raises(PromptError, match="with 5 folds each needs at least 5"):
        run_experiment("probing", model="demo", prompts="reviews:8", db=fresh_db)
