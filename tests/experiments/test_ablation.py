"""Without its induction heads the built-in model cannot repeat; without others it can."""

from pathlib import Path

import pandas as pd
import pytest

from mlux import compare, run_experiment
from mlux.errors import ParameterError, PromptError
from mlux.prompts import Prompt, PromptSet


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation") / "mlux.db"


@pytest.fixture(scope="module")
def frame(database: Path) -> pd.DataFrame:
    run = run_experiment(
        "ablation", model="demo", prompts="induction:4", db=database,
        params={"sites": "head,pattern"},
    )  # fmt: skip
    assert run.status == "done"
    results = compare.layer_results([run.uid], db=database)
    return results.astype({"condition": str, "metric": str})


def mean(frame: pd.DataFrame, condition: str, metric: str) -> float:
    rows = frame[(frame["condition"] == condition) & (frame["metric"] == metric)]
    assert len(rows) >= 4
    return float(rows["value"].mean())


@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
def test_both_induction_heads_are_needed_and_random_pairs_are_not(
    frame: pd.DataFrame, kind: str
) -> None:
    assert mean(frame, "kind=none", "accuracy") == 1.0
    assert mean(frame, f"kind={kind}, site=head_set", "accuracy") <= 0.1
    assert mean(frame, f"kind={kind}, site=head_set, control=random", "accuracy") >= 0.8
    assert mean(frame, f"kind={kind}, site=head_set", "kl") > 5


def test_the_median_head_alone_is_not_needed(frame: pd.DataFrame) -> None:
    rows = frame[(frame["condition"] == "kind=zero, site=head") & (frame["metric"] == "accuracy")]
    assert rows.groupby(["layer", "head"])["value"].mean().median() == 1.0


def test_a_head_in_its_own_place_changes_nothing(frame: pd.DataFrame) -> None:
    itself = frame[frame["condition"] == "kind=resample, site=head, control=self"]
    assert (itself[itself["metric"] == "kl"]["value"] == 0.0).all()
    none = frame[(frame["condition"] == "kind=none") & (frame["metric"] == "loss")]
    by_prompt = none.set_index("prompt")["value"]
    loss = itself[itself["metric"] == "loss"]
    assert (loss["value"] - loss["prompt"].map(by_prompt).astype(float)).abs().max() < 1e-3


def test_patterns_are_ablated_like_heads(frame: pd.DataFrame) -> None:
    """A head without a pattern reads nothing; with the pattern of other prompts nearly the same."""

    def loss(kind: str, site: str) -> pd.Series:
        condition = f"kind={kind}, site={site}"
        rows = frame[(frame["condition"] == condition) & (frame["metric"] == "loss")]
        assert len(rows) == 4 * 24
        return rows.groupby(["layer", "head"])["value"].mean()

    zero = loss("zero", "pattern")
    assert zero.to_dict() == pytest.approx(loss("zero", "head").to_dict(), abs=1e-3)
    assert zero.max() > 5
    for kind in ("mean", "resample"):
        assert loss(kind, "pattern").max() < 1 < loss(kind, "head").max()


@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_each_site_has_its_control_whatever_the_kind(kind: str, database: Path) -> None:
    run = run_experiment(
        "ablation", model="demo", prompts="induction:2", db=database,
        params={"sites": "attn_out,mlp_out", "kinds": kind},
    )  # fmt: skip
    frame = compare.layer_results([run.uid], metric="kl", db=database)
    for site in ("attn_out", "mlp_out"):
        itself = frame[frame["condition"].astype(str) == f"kind={kind}, site={site}, control=self"]
        assert len(itself) == 2 * 6
        assert (itself["value"] == 0.0).all()


def test_a_lone_prompt_has_no_mean_pattern(database: Path) -> None:
    prompt = Prompt(text="dog cat dog", answer="cat", wrong_answer="dog")
    params = {"sites": "pattern", "kinds": "mean"}
    run = run_experiment(
        "ablation", model="demo", db=database, params=params,
        prompts=PromptSet(name="one", prompts=(prompt,)),
    )  # fmt: skip
    errors = compare.runs(database).set_index("run")["error"].astype(str)
    assert "No other prompt has 4 tokens, and there is no corrupted one" in errors[run.uid]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"params": {"heads": "9.0"}}, ParameterError, "no head 9.0"),
        ({"params": {"heads": "two"}}, ParameterError, "expected layer.head, as in 2.0,2.3"),
        ({"params": {"top_k": 0}}, ParameterError, "top_k is 0"),
        ({"prompts": "facts:2"}, PromptError, "No token occurs twice"),
    ],
)
def test_what_cannot_be_ablated_is_refused(
    options: dict[str, object], error: type[Exception], message: str, database: Path
) -> None:
    with pytest.raises(error, match=message):
        run_experiment("ablation", **({"model": "demo", "db": database} | options))  # type: ignore[arg-type]
