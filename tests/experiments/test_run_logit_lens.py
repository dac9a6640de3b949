"""The logit lens on attention and MLP outputs, beside the residual stream that it always reads."""

from pathlib import Path

import pandas as pd
import pytest

from mlux import compare, run_experiment
from mlux.errors import ParameterError


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    db = tmp_path_factory.mktemp("lens") / "mlux.db"
    streams = "resid_post,attn_out,mlp_out"
    options = {"prompts": "facts:24", "db": db}
    runs = [
        run_experiment("logit_lens", model="demo", params={"streams": streams}, **options),
        run_experiment("logit_lens", model="demo", **options),
    ]
    frame = compare.layer_results([run.uid for run in runs], db=db)
    frame["condition"] = frame["condition"].astype(str)
    frame["run"] = (frame["run"].astype(str) == runs[1].uid).map({True: "plain", False: "all"})
    return frame


def test_the_residual_stream_is_read_as_without_the_option(results: pd.DataFrame) -> None:
    resid = results[results["condition"] == ""]
    keys = ["prompt", "metric", "layer", "position"]
    plain, all_streams = (
        resid[resid["run"] == name].set_index(keys)["value"].sort_index()
        for name in ("plain", "all")
    )
    assert len(plain) == 24 * 6 * 4
    assert (plain == all_streams).all()
    assert set(results[results["run"] == "plain"]["condition"]) == {""}


def test_the_mlps_of_the_later_blocks_say_the_fact_and_their_attention_does_not(
    results: pd.DataFrame,
) -> None:
    """Facts are looked up by the MLPs: what they add names the answer when it is read alone."""
    ranks = results[results["metric"] == "answer_rank"]
    top = (ranks["value"] == 0).groupby([ranks["condition"], ranks["layer"]]).mean()
    assert top["stream=mlp_out"][3] >= 0.7
    assert top["stream=attn_out"][2:].max() <= 0.05


def test_a_stream_that_is_named_twice_is_refused(fresh_db: Path) -> None:
    with pytest.raises(ParameterError, match="streams names one twice: attn_out, attn_out"):
        run_experiment(
            "logit_lens", model="demo", params={"streams": "attn_out,attn_out"}, db=fresh_db
        )
