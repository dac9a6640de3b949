"""The baseline gate from the plan to the report."""

from dataclasses import replace
from pathlib import Path

import pytest

from mlux import compare, prompts, registry, run_experiment, runner
from mlux.gate import METRICS, SOLVED
from mlux.prompts import PromptSet
from mlux.report import reproduce
from mlux.store import Store, load_run

GATED = (
    *("activation_patching", "attribution_patching", "path_patching", "causal_mediation"),
    *("entity_binding", "ablation", "direct_logit_attribution", "causal_tracing"),
    "function_vectors",
)
PARAMS = {"sites": ("resid_pre",)}


@pytest.fixture(scope="module")
def mixed() -> PromptSet:
    """Three prompts as they are, and one whose two answers have changed places."""
    good = prompts.load("ioi:4").prompts
    wrong = replace(good[3], answer=good[3].wrong_answer, wrong_answer=good[3].answer)
    return PromptSet(name="mixed", prompts=(*good[:3], wrong))


def test_every_experiment_that_takes_a_skill_for_granted_has_a_gate() -> None:
    gated = [name for name in registry.names() if registry.get(name).gate]
    assert sorted(gated) == sorted(GATED)
    assert all(set(METRICS) <= set(registry.get(name).metrics) for name in gated)


def test_a_prompt_the_wrong_way_round_counts_nowhere(mixed: PromptSet, fresh_db: Path) -> None:
    plan = runner.plan_experiment(
        "activation_patching", model="demo", prompts=mixed, params=PARAMS, timed=True
    )
    assert plan.n_unsolved == 1
    run = run_experiment(
        "activation_patching", model="demo", prompts=mixed, params=PARAMS, db=fresh_db
    )
    assert (run.status, run.n_unsolved) == ("done", 1)
    assert run.gate_sentence is not None
    effects = compare.layer_results(run.uid, "patching_effect", fresh_db)
    # Controls pass the same gate: nothing is there of the fourth prompt under any condition.
    assert effects.groupby("condition", observed=True)["prompt"].nunique().tolist() == [3, 3, 3]
    solved = compare.layer_results(run.uid, SOLVED.name, fresh_db)
    assert solved.groupby("condition", observed=True)["value"].sum().tolist() == [3, 3, 3]
    with Store.open(fresh_db) as store:
        stored = load_run(store, run.uid)
    assert stored.n_unsolved == 1
    assert {stored.trials[trial].prompt for trial in stored.unsolved} == {3}
    assert all("the wrong answer" in reason for reason in stored.unsolved.values())


def test_what_is_asked_of_the_gate_stays_with_the_run(mixed: PromptSet, fresh_db: Path) -> None:
    run = run_experiment(
        "activation_patching",
        model="demo",
        prompts=mixed,
        params=PARAMS,
        keep_unsolved=True,
        min_gap=0.5,
        db=fresh_db,
    )
    effects = compare.layer_results(run.uid, "patching_effect", fresh_db)
    assert effects["prompt"].nunique() == 4
    again = runner.rerun(run.uid, db=fresh_db)
    assert (again.n_unsolved, again.keep_unsolved) == (1, True)
    with Store.open(fresh_db) as store:
        stored = [load_run(store, uid) for uid in (run.uid, again.uid)]
    assert stored[0].params == stored[1].params
    assert runner.prepare_again(stored[0]).gate.min_gap == 0.5  # as a resume has it
    (*_, line) = reproduce._run(stored[0])
    assert "--keep-unsolved" in line
    assert "--min-gap 0.5" in line
    notes = compare.diff(run.uid, again.uid, metric="patching_effect", db=fresh_db).attrs["notes"]
    assert any("3 of 4 prompts are solved" in note for note in notes)


def test_a_binding_that_the_model_hardly_makes_is_not_divided_by(fresh_db: Path) -> None:
    run = run_experiment(
        "entity_binding", model="demo", prompts="two_hop_in_context:6", min_gap=1e3, db=fresh_db
    )
    assert run.n_unsolved == 6
    assert len(compare.layer_results(run.uid, "exchange_effect", fresh_db)) == 0
