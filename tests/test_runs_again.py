"""Runs that are there already: used, joined, run again, verified, and told apart."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlux import compare, run_experiment
from mlux.engine import loading
from mlux.prompts import Prompt, PromptSet
from mlux.runner import plan_experiment, rerun, resume
from mlux.store import Store, load_run
from mlux.store.differences import differences
from mlux.verify import OF_ANOTHER_DEVICE, TOLERANCES, tolerance, verify

Cli = Callable[..., subprocess.CompletedProcess[str]]


def change(db: Path, sql: str, *values: Any) -> None:
    with sqlite3.connect(db) as connection:
        connection.execute(sql, values)
    connection.close()


@pytest.fixture
def own_model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(loading.find("demo").folder, tmp_path / "own"))


@pytest.fixture
def verified(tmp_path: Path, own_model: Path) -> tuple[Path, str]:
    """A run on a copy of the built-in model, whose files a test may change."""
    db = tmp_path / "verified.db"
    run = run_experiment("logit_lens", model=own_model, prompts="facts:6", db=db)
    return db, run.uid


def test_the_identical_run_is_said_and_used(cli: Cli, fresh_db: Path) -> None:
    job: dict[str, Any] = {"model": "demo", "prompts": "facts:3", "db": fresh_db}
    first = run_experiment("logit_lens", **job)
    again = run_experiment("logit_lens", **job, tags={"other": "tag"}, batch_size=2)
    assert (first.identical, again.identical) == ((), (first.uid,))
    used = run_experiment("logit_lens", **job, skip_existing=True)
    assert (used.uid, used.is_new) == (again.uid, False)
    for changes in ({"params": {"top_k": 2}}, {"seed": 1}, {"prompts": "facts:2"}):
        assert run_experiment("logit_lens", **(job | changes), skip_existing=True).is_new
    typed = ("--db", fresh_db, "run", "logit_lens", "-m", "demo", "--prompts", "facts:3")
    said = cli(*typed, "--skip-existing")
    assert "is the identical run, done before; nothing was run" in said.stderr
    assert "had computed the same already; --skip-existing would have used it" in cli(*typed).stderr


FAILING = PromptSet(
    name="half of it fails",
    prompts=tuple(
        Prompt(
            text=f"{name} gave a {thing} to",
            corrupted=f"{name} gave a {thing} to",
            answer="mary",
            wrong_answer="john",
        )
        for name in ("mary", "john")
        for thing in ("book", "letter", "ball")
    ),
)


def test_a_run_stops_when_more_trials_failed_than_it_may_have(fresh_db: Path) -> None:
    job: dict[str, Any] = {
        "model": "demo",
        "prompts": FAILING,
        "params": {"sites": "attn_out", "controls": False},
        "keep_unsolved": True,
        "batch_size": 1,
    }
    run = run_experiment("activation_patching", **job, db=fresh_db, max_failures=2)
    assert (run.status, run.n_failed) == ("failed", 3)
    with Store.open(fresh_db) as store:
        stored = load_run(store, run.uid)
    assert stored.counts == {"done": 0, "failed": 3, "pending": 3}
    assert "stopped after 3 failures, of at most 2; the last: " in (stored.error or "")
    assert resume(run.uid, db=fresh_db).n_failed == 6


def test_the_dry_run_says_how_long_it_will_take(cli: Cli) -> None:
    timed = plan_experiment("logit_lens", model="demo", prompts="facts:8", timed=True)
    assert timed.seconds
    assert timed.seconds > 0
    assert plan_experiment("logit_lens", model="demo", prompts="facts:8").seconds is None
    shown = cli("run", "logit_lens", "-m", "demo", "--prompts", "facts:8", "--dry-run", "--json")
    assert json.loads(shown.stdout)[0]["seconds"] > 0


def test_rerun_gives_the_same_numbers_under_a_new_name(fresh_db: Path) -> None:
    params = {"n_sequences": 3, "period": 6}
    first = run_experiment(
        "induction_heads", model="demo", params=params, seed=7, tags={"a": "b"}, db=fresh_db
    )
    second = rerun(first.uid, db=fresh_db)
    assert second.uid != first.uid
    columns = ["prompt", "condition", "metric", "layer", "head", "value"]
    one, other = (compare.layer_results([run], db=fresh_db)[columns] for run in (first, second))
    assert one.equals(other)
    with Store.open(fresh_db) as store:
        stored, again = load_run(store, first.uid), load_run(store, second.uid)
    assert differences(stored, again) == []
    assert again.tags == {"a": "b"}
    assert (stored.rerun_of, again.rerun_of) == (None, first.uid)


def test_what_two_runs_do_not_share_is_listed(cli: Cli, fresh_db: Path) -> None:
    one = run_experiment("logit_lens", model="demo", prompts="facts:3", db=fresh_db)
    other = run_experiment(
        "logit_lens", model="demo-4bit", prompts="facts:4", params={"top_k": 3}, seed=2, db=fresh_db
    )
    change(fresh_db, "UPDATE run_versions SET version = '0.1' WHERE package = 'mlx' AND run_id = 1")
    shown = cli("--db", fresh_db, "runs", "show", "--diff", one.uid, other.uid, "--json")
    found = {(row["part"], row["name"]): (row["a"], row["b"]) for row in json.loads(shown.stdout)}
    assert found["params", "top_k"] == (5, 3)
    assert found["run", "seed"] == (0, 2)
    assert found["prompts", "count"] == (3, 4)
    assert found["model", "quant_bits"] == (None, 4)
    assert found["versions", "mlx"][0] == "0.1"
    same = cli("--db", fresh_db, "runs", "show", "--diff", one.uid, one.uid)
    assert "do not differ in anything that a number may depend on" in same.stderr
    assert cli("--db", fresh_db, "runs", "show", "--diff", one.uid).returncode == 2


def test_a_run_that_nothing_has_changed_of_is_verified(
    cli: Cli, verified: tuple[Path, str]
) -> None:
    db, uid = verified
    found = verify(uid, db=db)
    assert (found.n_different, found.largest, found.first, found.changed) == (0, 0.0, None, ())
    assert found.n_trials == 6
    # Numbers, top tokens with their probabilities, and the ids that were run.
    results = len(compare.layer_results([uid], db=db))
    tops = 2 * len(compare.predictions([uid], db=db))
    assert found.n_values > results + tops
    shown = cli("--db", db, "runs", "verify", uid)
    assert shown.returncode == 0
    assert "values of 6 trials agree within 0.0001 (largest difference 0)" in shown.stdout


def test_a_changed_weight_is_found_and_named(
    cli: Cli, verified: tuple[Path, str], own_model: Path
) -> None:
    db, uid = verified
    weights = own_model / "model.safetensors"
    tensors = mx.load(str(weights))
    tensors["model.layers.2.mlp.down_proj.weight"] *= 1.5
    mx.save_safetensors(str(weights), tensors, metadata={"format": "mlx"})
    found = verify(uid, db=db)
    assert [(one.part, one.name) for one in found.changed] == [("model", "weights_hash")]
    assert found.first is not None
    # The lens before block 2 is as it was; its distance to the final prediction is not.
    assert (found.first.place.trial, found.first.place.layer) == (0, 0)
    assert found.first.place.name == "kl_to_final"
    shown = cli("--db", db, "runs", "verify", uid)
    assert shown.returncode == 1
    assert "changed: model weights_hash: " in shown.stdout
    assert f"Error: Run {uid} is not reproduced; first trial 0, layer 0" in shown.stderr


def test_a_changed_template_is_found_and_named(
    cli: Cli, verified: tuple[Path, str], own_model: Path
) -> None:
    db, uid = verified
    path = own_model / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["chat_template"] += " "
    path.write_text(json.dumps(config))
    shown = cli("--db", db, "runs", "verify", uid)
    assert shown.returncode == 1
    assert "changed: tokenizer chat_template_hash: " in shown.stdout
    assert "the same numbers, but not the same tokenizer (chat_template_hash)" in shown.stderr
    assert cli("--db", db, "runs", "verify", uid, "--numbers-only").returncode == 0


def test_a_changed_prompt_is_found_and_named(verified: tuple[Path, str]) -> None:
    db, uid = verified
    change(db, "UPDATE prompts SET text = 'the capital of peru is' WHERE id = 2")
    found = verify(uid, db=db)
    assert [(one.part, one.name) for one in found.changed] == [
        ("prompt", "number 2, 'the capital of peru is'")
    ]
    assert found.first is not None
    assert found.first.place.trial == 1


def test_a_changed_version_or_code_is_found_and_named(cli: Cli, verified: tuple[Path, str]) -> None:
    db, uid = verified
    change(db, "UPDATE run_versions SET version = '0.1' WHERE package = 'mlx'")
    change(db, "UPDATE runs SET code_hash = ?", "ab" * 32)
    shown = cli("--db", db, "runs", "verify", uid)
    assert shown.returncode == 1
    assert "changed: experiment code: abababababab → " in shown.stdout
    assert "changed: versions mlx: 0.1 → " in shown.stdout


def test_a_changed_number_is_found_with_its_layer(verified: tuple[Path, str]) -> None:
    db, uid = verified
    where = "trial = 3 AND layer = 4 AND metric_id = (SELECT id FROM metrics WHERE name='entropy')"
    change(db, f"UPDATE layer_results SET value = value + 0.00005 WHERE {where}")
    assert verify(uid, db=db).n_different == 0  # within what rounding explains
    change(db, f"UPDATE layer_results SET value = value + 0.01 WHERE {where}")
    found = verify(uid, db=db)
    assert found.n_different == 1
    assert str(found.first).startswith("trial 3, layer 4, position ")
    change(db, f"DELETE FROM layer_results WHERE {where}")
    missing = verify(uid, db=db).first
    assert missing is not None
    assert missing.stored is None


def test_the_tolerance_knows_dtype_device_and_quantisation(verified: tuple[Path, str]) -> None:
    from dataclasses import replace

    db, uid = verified
    with Store.open(db) as store:
        model = load_run(store, uid).model
    cpu, gpu = "Device(cpu, 0)", "Device(gpu, 0)"
    assert tolerance(model, cpu, cpu) == TOLERANCES["float32"]
    assert tolerance(model, cpu, gpu) == TOLERANCES["float32"] * OF_ANOTHER_DEVICE
    assert tolerance(replace(model, dtype="bfloat16"), cpu, gpu) == TOLERANCES["bfloat16"]
    assert tolerance(replace(model, quant_bits=4), cpu, cpu) > TOLERANCES["float32"]


WORKER = """
import sys
from mlux.runner import resume
from mlux.store import RunWriter

def claim_first(writer, trials):
    RunWriter.claim = claim
    claimed = claim(writer, trials)
    print("claimed", flush=True)
    sys.stdin.readline()
    return claimed

claim, RunWriter.claim = RunWriter.claim, claim_first
print("computed", resume("latest", db=sys.argv[1]).seconds)
"""


def worker(db: Path) -> Any:
    """A process that goes on with the run, and stops at its first claim until it gets a line."""
    command = [sys.executable, "-c", WORKER, str(db)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_several_processes_share_a_run_and_do_no_trial_twice(tmp_path: Path) -> None:
    from mlux import plan
    from mlux.store import creation

    alone, shared = tmp_path / "alone.db", tmp_path / "shared.db"
    job: dict[str, Any] = {"model": "demo", "prompts": "ioi:24", "batch_size": 2}
    params = {"sites": "attn_out,head", "controls": False}
    run_experiment("activation_patching", **job, params=params, db=alone)
    prepared = plan.prepare("activation_patching", **job, params=params)
    with Store.open(shared, write=True) as store:
        uid = creation.create_run(store, prepared.spec(tags={}, note=None))
    workers = [worker(shared) for _ in range(2)]
    assert [one.stdout.readline() for one in workers] == ["claimed\n"] * 2
    for one in workers:  # each has trials by now, and they go on side by side
        one.stdin.write("go\n")
        one.stdin.flush()
    said = [one.communicate()[0] for one in workers]
    with Store.open(shared) as store:
        assert load_run(store, uid).status == "done", said
    connection = sqlite3.connect(shared)
    workers_of = connection.execute("SELECT count(DISTINCT worker) FROM trials").fetchone()[0]
    connection.close()
    assert workers_of == 2, said
    columns = ["prompt", "condition", "metric", "layer", "head", "position", "value"]
    one, other = (
        compare.layer_results("latest", db=db)[columns].sort_values(columns, ignore_index=True)
        for db in (alone, shared)
    )
    assert one.equals(other)


@pytest.mark.slow
def test_a_dead_workers_trials_are_done_by_the_others(tmp_path: Path) -> None:
    from mlux import plan
    from mlux.store import creation

    db = tmp_path / "shared.db"
    prepared = plan.prepare(
        "activation_patching",
        model="demo",
        prompts="ioi:16",
        params={"sites": "attn_out,head", "controls": False},
        batch_size=4,
    )
    with Store.open(db, write=True) as store:
        uid = creation.create_run(store, prepared.spec(tags={}, note=None))
    victim = worker(db)
    assert victim.stdout.readline() == "claimed\n"
    victim.kill()
    victim.communicate()
    assert resume(uid, db=db).status == "done"
