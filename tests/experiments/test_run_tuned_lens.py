"""The tuned lens as an experiment: prompts it has not seen, and maps that are kept."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pandas as pd
import pytest

from mlux import compare, prompts, run_experiment
from mlux.engine import HookedModel, sites
from mlux.engine.arrays import to_numpy
from mlux.engine.trials import encode
from mlux.errors import ParameterError
from mlux.store import artifacts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    db = tmp_path_factory.mktemp("tuned") / "mlux.db"
    params = {"steps": 60, "positions": "all"}
    done = run_experiment("tuned_lens", model="demo", prompts="few_shot:32", params=params, db=db)
    return done.uid, db


def by_layer(run: tuple[str, Path], metric: str) -> pd.DataFrame:
    frame = compare.layer_results([run[0]], metric=metric, db=run[1])
    frame["lens"] = frame["condition"].astype(str).str.removeprefix("lens=")
    return frame.groupby(["lens", "layer"])["value"].mean().unstack("lens")


def test_it_is_nearer_than_the_logit_lens_at_every_layer(run: tuple[str, Path]) -> None:
    distance = by_layer(run, "kl_to_final")
    assert (distance["tuned"] <= distance["logit"]).all()
    assert (distance["tuned"][:4] <= 0.5 * distance["logit"][:4]).all()
    assert distance["tuned"][5] == distance["logit"][5] == 0.0


def test_the_last_layer_is_the_same_by_both(run: tuple[str, Path]) -> None:
    for metric in ("answer_rank", "answer_probability"):
        values = by_layer(run, metric)
        assert values["tuned"][5] == values["logit"][5]


def test_the_maps_are_kept_and_read_what_was_stored(run: tuple[str, Path]) -> None:
    """The answer's probability after block 3 of a prompt, from the kept maps in NumPy."""
    uid, db = run
    model = HookedModel.from_pretrained("demo")
    encoded = encode(model, prompts.load("few_shot").prompts[0])
    _, cache = model.run_with_cache(mx.array([encoded.ids]), hooks=[sites.resid_post(3)])
    resid = to_numpy(cache[sites.resid_post(3)])[:, -1:]
    read = []
    for fold in range(2):
        arrays = artifacts.load(str(db), uid, f"tuned_lens.{fold}")
        assert arrays["weight"].shape == (5, 128, 128)
        moved = resid + resid @ arrays["weight"][3].T + arrays["bias"][3]
        logits = to_numpy(model.unembed(mx.array(moved.astype(np.float32))))[0, 0]
        read.append(
            np.exp(logits[encoded.answer] - logits.max()) / np.exp(logits - logits.max()).sum()
        )
    frame = compare.layer_results([uid], metric="answer_probability", db=db)
    last = frame[(frame["layer"] == 3) & (frame["condition"].astype(str) == "lens=tuned")]
    last = last[last["prompt"].astype(str).str.startswith(encoded.prompt.text[:40])]
    stored = float(last[last["position"] == len(encoded.ids) - 1]["value"].iloc[0])
    assert min(abs(value - stored) for value in read) <= 1e-4


def test_more_folds_than_prompts_are_refused(fresh_db: Path) -> None:
    with pytest.raises(ParameterError, match="folds is 5, but there are 4 prompts to divide"):
        run_experiment(
            "tuned_lens", model="demo", prompts="facts:4", params={"folds": 5}, db=fresh_db
        )
