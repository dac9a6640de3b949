"""What a run refuses, its plan refuses too, in the same words, and nothing is then stored."""

from pathlib import Path
from typing import Any

import pytest

from mlux import HookedModel, compare, prompts, registry, run_experiment
from mlux.errors import MluxError
from mlux.prompts import Prompt, PromptSet
from mlux.runner import plan_experiment
from mlux.store import Store
from mlux.store.checks import store_checks

ONE = PromptSet(
    name="one",
    prompts=(
        Prompt(
            text="the capital of france is",
            corrupted="the capital of spain is",
            answer="paris",
            wrong_answer="madrid",
            subject="france",
            label="paris",
        ),
    ),
)
"""One prompt with every role: too few for whatever learns, and without a repeated token."""

BAD: dict[str, dict[str, Any]] = {
    "one prompt": {"prompts": ONE},
    "an unknown option": {"params": {"no_such_option": 1}},
    "a seed below 0": {"seed": -1},
    "no batch": {"batch_size": 0},
    "no memory": {"memory": 0},
    "an unknown prompt set": {"prompts": "no such set"},
}
OWN: list[tuple[str, dict[str, Any]]] = [
    ("ablation", {"params": {"heads": "99.0"}}),
    ("ablation", {"prompts": ONE}),
    ("activation_patching", {"prompts": ONE}),
    ("function_vectors", {"params": {"n_heads": 1000, "n_prompts": 4}}),
    ("function_vectors", {"params": {"compose": "nothing=at+all", "n_prompts": 4}}),
    ("path_patching", {"params": {"heads": "0.99"}}),
    ("path_patching", {"params": {"through": "99"}}),
    ("probing", {"params": {"folds": 1000}}),
    ("refusal_direction", {"params": {"positions": 1000}}),
    ("refusal_direction", {"params": {"harmful": "nobody"}}),
    ("steering", {"params": {"positive": "nobody"}}),
    ("steering", {"params": {"layers": "99"}}),
    ("tuned_lens", {"params": {"folds": 1000}}),
    ("two_hop", {"prompts": ONE}),
]


def _refusal(of: Any, name: str, request: dict[str, Any], db: Path) -> str | None:
    try:
        of(name, model="demo", db=db, **request)
    except MluxError as error:
        return str(error)
    return None


@pytest.mark.parametrize(("name", "request_"), OWN)
def test_an_experiment_refuses_in_its_plan_what_it_refuses_in_a_run(
    name: str, request_: dict[str, Any], tmp_path: Path
) -> None:
    db = tmp_path / "mlux.db"
    planned = _refusal(plan_experiment, name, request_, db)
    assert planned is not None
    assert _refusal(run_experiment, name, request_, db) == planned
    assert not db.exists() or compare.runs(db).empty


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("bad", BAD)
def test_whatever_is_refused_is_refused_before_anything_runs(
    name: str, bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = tmp_path / "mlux.db"
    planned = _refusal(plan_experiment, name, BAD[bad], db)
    if planned is None:
        # It is accepted, so learning what comes before the first trial must not refuse it.
        from mlux.plan import prepare

        if BAD[bad].keys() == {"prompts"}:
            prepare(name, model="demo", **BAD[bad]).fit()
        return

    def computed(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr("mlux.runner.execute", computed)
    assert _refusal(run_experiment, name, BAD[bad], db) == planned


def test_a_plan_refuses_a_model_that_failed_its_self_test(tmp_path: Path) -> None:
    db = tmp_path / "mlux.db"
    model = HookedModel.from_pretrained("demo")
    row = {"site": "hooks", "verdict": "failed", "error": 1.0, "reason": "made up"}
    with Store.open(db, write=True) as store:
        store_checks(store, model.identity, [row], {})
    planned = _refusal(plan_experiment, "logit_lens", {}, db)
    assert planned is not None
    assert "made up" in planned
    assert _refusal(run_experiment, "logit_lens", {}, db) == planned


def test_ablation_without_heads_asks_nothing_of_heads(tmp_path: Path) -> None:
    words = PromptSet(name="facts", prompts=prompts.load("facts:3").prompts)
    run = run_experiment(
        "ablation",
        model="demo",
        prompts=words,
        params={"sites": "attn_out,mlp_out", "kinds": "zero"},
        db=tmp_path / "mlux.db",
    )
    assert run.status == "done"
