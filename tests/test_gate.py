"""The baseline gate from the plan to the report."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlux import compare, prompts, registry, run_experiment, runner
from mlux.gate import METRICS, SOLVED, Baseline
from mlux.methods import baseline
from mlux.prompts import PromptSet
from mlux.report import request
from mlux.store import RunWriter, Store, list_runs, load_run

GATED = (
    *("activation_patching", "attribution_patching", "path_patching", "causal_mediation"),
    *("entity_binding", "ablation", "direct_logit_attribution", "causal_tracing"),
    "function_vectors",
)
PARAMS = {"sites": ("resid_pre",)}
FEW: dict[str, dict[str, Any]] = {
    "activation_patching": {"prompts": "ioi:3", "params": PARAMS},
    "attribution_patching": {"prompts": "ioi:3"},
    "path_patching": {"prompts": "induction:3"},
    "causal_mediation": {"prompts": "facts:3"},
    "entity_binding": {"prompts": "two_hop_in_context:3"},
    "ablation": {"prompts": "induction:3"},
    "direct_logit_attribution": {"prompts": "ioi:3"},
    "causal_tracing": {"prompts": "facts:3"},
    "function_vectors": {"params": {"n_prompts": 4, "n_shots": 2, "n_random": 1}},
}


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


@pytest.mark.parametrize("name", GATED)
def test_a_prompt_that_is_not_solved_is_computed_under_no_condition_or_control(
    name: str, fresh_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last_fails(*args: Any, **options: Any) -> tuple[Baseline, ...]:
        *others, last = baselines(*args, **options)
        return (*others, replace(last, unsolved="a reason"))

    baselines = baseline.baselines
    monkeypatch.setattr(baseline, "baselines", last_fails)
    run = run_experiment(name, model="demo", db=fresh_db, **FEW.get(name, {}))
    with Store.open(fresh_db) as store:
        stored = load_run(store, run.uid)
    last = stored.prompts.prompts[-1].text
    assert "a reason" in stored.unsolved.values()
    values = compare.layer_results(run.uid, db=fresh_db)
    of_last = values[values["prompt"] == last]
    assert set(of_last["metric"]) == {metric.name for metric in METRICS}
    assert set(values.loc[values["prompt"] != last, "condition"]) == set(of_last["condition"])
    assert set(values["metric"]) > set(of_last["metric"])


def test_a_run_that_is_stopped_and_resumed_judges_each_prompt_as_before(
    mixed: PromptSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job: dict[str, Any] = {"model": "demo", "prompts": mixed, "params": PARAMS, "batch_size": 1}
    whole = run_experiment("activation_patching", db=tmp_path / "whole.db", **job)
    stopped = tmp_path / "stopped.db"
    written = RunWriter.write
    moments = iter(range(10_000))

    def interrupted(writer: RunWriter, batch: Any) -> None:
        if next(moments) == 5:
            raise KeyboardInterrupt
        written(writer, batch)

    with monkeypatch.context() as patched:
        patched.setattr(RunWriter, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_experiment("activation_patching", db=stopped, **job)
    with Store.open(stopped) as store:
        (only,) = list_runs(store)
    resumed = runner.resume(only["run"], db=stopped)
    assert (resumed.status, resumed.n_unsolved) == ("done", whole.n_unsolved)
    columns = ["prompt", "condition", "metric", "layer", "head", "position", "value"]
    tables = [
        compare.layer_results(uid, db=db)[columns].sort_values(columns, ignore_index=True)
        for uid, db in ((whole.uid, tmp_path / "whole.db"), (resumed.uid, stopped))
    ]
    assert tables[0].equals(tables[1])


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
    (*_, line) = request.lines([stored[0]])
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
