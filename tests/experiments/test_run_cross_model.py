"""Models of different depth line up by relative depth."""

import json
from pathlib import Path

import mlx.core as mx
import pandas as pd
import pytest

from mlux import compare, run_experiment
from mlux.engine import HookedModel, loading
from mlux.errors import ParameterError

N_LAYERS = 4


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model's first four blocks, as a model of its own."""
    source = Path(loading.find("demo").folder)
    folder = tmp_path_factory.mktemp("shallow") / "shallow"
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text("utf-8"))
    config["num_hidden_layers"] = N_LAYERS
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    weights = mx.load(str(source / "model.safetensors"))
    assert isinstance(weights, dict)
    kept = {
        name: array
        for name, array in weights.items()
        if not name.startswith(("model.layers.4.", "model.layers.5."))
    }
    mx.save_safetensors(str(folder / "model.safetensors"), kept, metadata={"format": "mlx"})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, shallow: Path) -> tuple[list[str], Path]:
    db = tmp_path_factory.mktemp("cross") / "mlux.db"
    models: list[str | Path] = ["demo", shallow]
    made = [run_experiment("cross_model", model=m, prompts="facts:24", db=db) for m in models]
    return [run.uid for run in made], db


def test_models_of_six_and_four_blocks_line_up(runs: tuple[list[str], Path]) -> None:
    uids, db = runs
    table = compare.pivot(uids, metric="answer_probability", by="layer", db=db)
    assert list(table.index) == list(range(0, 101, 10))
    assert not table.isna().any().any()
    difference = compare.diff(*uids, metric="answer_probability", by="layer", db=db)
    assert set(difference["n"]) == {24}, "the prompts of both models are paired"


def test_both_have_passed_the_same_blocks_where_their_depths_meet(
    runs: tuple[list[str], Path],
) -> None:
    """After two blocks, 40 % of six and 50 % of four, the same weights have done the same work."""
    uids, db = runs
    ranks = compare.pivot(uids, metric="answer_rank", by=["layer", "prompt"], db=db)
    six, four = (ranks[uid].unstack("layer") for uid in uids)
    assert (six[40] == four[50]).all()
    assert (six[0] == four[0]).all()


def test_a_depth_is_the_logit_lens_after_as_many_blocks(
    runs: tuple[list[str], Path], shallow: Path
) -> None:
    uids, db = runs
    for uid, model, n_layers in zip(uids, ("demo", shallow), (6, N_LAYERS), strict=True):
        lens = run_experiment("logit_lens", model=model, prompts="facts:24", db=db)
        for metric in ("answer_rank", "answer_probability", "kl_to_final"):
            found = by_layer(uid, metric, db)
            expected = by_layer(lens.uid, metric, db)
            for percent in range(20, 101, 10):
                blocks = percent * n_layers // 100
                if blocks:
                    pd.testing.assert_series_equal(
                        found[percent], expected[blocks - 1], check_names=False, rtol=1e-4
                    )


def by_layer(uid: str, metric: str, db: Path) -> pd.DataFrame:
    frame = compare.layer_results([uid], metric=metric, db=db)
    return frame.pivot(index="prompt", columns="layer", values="value").sort_index()


def test_the_built_in_model_settles_its_facts_between_a_third_and_the_end(
    runs: tuple[list[str], Path],
) -> None:
    uids, db = runs
    depth = compare.layer_results(uids[:1], metric="answer_depth", db=db)["value"]
    accuracy = compare.layer_results(uids[:1], metric="accuracy", db=db)["value"]
    assert len(depth) == accuracy.sum() == 24
    assert depth.between(1 / 6, 1).all()
    assert 0.4 <= depth.mean() <= 0.8


def test_the_embedding_of_a_model_knows_no_fact() -> None:
    from mlux.methods.lens import depth_lens

    model = HookedModel.from_pretrained("demo")
    batch = model.to_batch("the capital of france is")
    paris = model.tokenize("paris")[-1]
    first, *_, last = depth_lens(model, batch, answers=[paris], positions=batch.last[:, None])
    assert (first.layer, last.layer) == (0, 6)
    assert int(first.answer_rank[0, 0]) > 10
    assert int(last.answer_rank[0, 0]) == 0


def test_steps_divide_a_hundred(fresh_db: Path) -> None:
    with pytest.raises(ParameterError, match="steps is 7; expected a divisor of 100"):
        run_experiment("cross_model", model="demo", params={"steps": 7}, db=fresh_db)
