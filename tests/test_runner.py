"""Runs: planned, stored trial by trial, stopped, and resumed to the same numbers."""

import os
import shutil
import signal
import sqlite3
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlux import compare, plan, run_experiment
from mlux.batches import run_batch
from mlux.engine import HookedModel, loading
from mlux.errors import MluxError, ParameterError, PromptError, RunError, UnknownNameError
from mlux.prompts import Prompt, PromptSet
from mlux.runner import plan_experiment, resume
from mlux.store import Store, list_runs, load_run

EXPERIMENTS = ("logit_lens", "induction_heads", "activation_patching")
SMALL: dict[str, dict[str, Any]] = {
    "logit_lens": {"prompts": "facts:24"},
    "induction_heads": {"params": {"n_sequences": 4, "period": 8}},
    "activation_patching": {"prompts": "ioi:3", "params": {"sites": "attn_out,head"}},
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_stores_what_its_plan_says(name: str, fresh_db: Path) -> None:
    plan = plan_experiment(name, model="demo", **SMALL[name])
    assert not fresh_db.exists()
    run = run_experiment(name, model="demo", db=fresh_db, seed=5, **SMALL[name])
    assert (run.status, run.n_trials, run.n_failed) == ("done", plan.n_trials, 0)
    results = compare.layer_results([run], db=fresh_db)
    values = plan.bytes // 26
    stored = len(results) + len(compare.predictions([run], db=fresh_db))
    assert stored == values
    with Store.open(fresh_db) as store:
        stored_run = load_run(store, run.uid)
    assert stored_run.seed == 5
    assert stored_run.hook_fires
    assert stored_run.peak_memory_bytes
    assert stored_run.versions["mlx"]
    assert (
        stored_run.model.weights_hash == HookedModel.from_pretrained("demo").identity.weights_hash
    )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_same_seed_gives_the_same_numbers(name: str, tmp_path: Path) -> None:
    tables = []
    for seed in (1, 1, 2):
        db = tmp_path / f"{len(tables)}.db"
        run_experiment(name, model="demo", db=db, seed=seed, **SMALL[name])
        tables.append(rows_of(db)["layer_results"])
    assert tables[0] == tables[1]
    assert (tables[0] == tables[2]) == (name == "logit_lens")  # which draws nothing


def test_a_loaded_model_can_be_run(fresh_db: Path) -> None:
    model = HookedModel.from_pretrained("demo", dtype="float16")
    run = run_experiment("logit_lens", model=model, prompts="facts:3", db=fresh_db)
    with Store.open(fresh_db) as store:
        assert load_run(store, run.uid).model.dtype == "float16"


def test_the_lens_in_the_notebook_is_the_models_own_prediction(fresh_db: Path) -> None:
    run = run_experiment("logit_lens", model="demo", prompts="facts:24", db=fresh_db)
    top = compare.predictions([run], db=fresh_db)
    model = HookedModel.from_pretrained("demo")
    final = top[(top["layer"] == 5) & (top["rank"] == 0)]
    assert len(final) == 24
    for prompt, token, probability in final[["prompt", "token", "probability"]].itertuples(
        index=False
    ):
        logits = model.forward(prompt)[0, -1]
        assert model.tokenizer.decode([int(mx.argmax(logits))]) == token
        assert probability == pytest.approx(float(mx.max(mx.softmax(logits))), rel=1e-4)


def test_plain_texts_are_enough_for_the_lens(fresh_db: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("the capital of france is\nmary lives in\n")
    run = run_experiment("logit_lens", model="demo", prompts=path, db=fresh_db)
    assert run.status == "done"
    metrics = set(compare.layer_results([run], db=fresh_db)["metric"])
    assert metrics == {"entropy", "kl_to_final"}
    assert len(compare.predictions([run], db=fresh_db)) == 2 * 6 * 5


def test_induction_needs_no_bos_token(fresh_db: Path) -> None:
    model = HookedModel.from_pretrained("demo")
    words = model.to_batch("dog cat horse walk run go hot big fast").row_ids(0)[1:]
    chosen = tuple(
        Prompt(text=f"{start}", token_ids=(*stretch, *stretch))
        for start in range(3)
        for stretch in [words[start:] + words[:start]]
    )
    prompts = PromptSet(name="no bos", prompts=chosen)
    params = {"controls": False}
    run = run_experiment(
        "induction_heads", model=model, prompts=prompts, params=params, db=fresh_db
    )
    scores = compare.pivot([run], metric="prefix_matching_score", by=["layer", "head"], db=fresh_db)
    assert scores[run.uid].max() > 0.5
    copying = compare.layer_results([run], metric="copying_score", db=fresh_db)["value"]
    assert copying.between(-1, 1).all()


def test_induction_refuses_what_does_not_repeat(fresh_db: Path) -> None:
    params = {"controls": False}
    run = run_experiment(
        "induction_heads", model="demo", prompts="facts:2", params=params, db=fresh_db
    )
    with Store.open(fresh_db) as store:
        stored = load_run(store, run.uid)
    assert stored.counts["failed"] == 2
    assert "the same again" in stored.failures[0]


def test_a_folder_that_changed_is_loaded_again(fresh_db: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(loading.find("demo").folder, tmp_path / "mine"))
    first = run_experiment("logit_lens", model=folder, prompts="facts:3", db=fresh_db)
    weights = folder / "model.safetensors"
    tensors = mx.load(str(weights))
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.5
    mx.save_safetensors(str(weights), tensors, metadata={"format": "mlx"})
    second = run_experiment("logit_lens", model=folder, prompts="facts:3", db=fresh_db)
    difference = compare.diff(first, second, metric="entropy", db=fresh_db)
    assert (difference["estimate"].abs() > 1e-3).any()


def test_a_run_that_stopped_after_its_last_trial_can_be_finished(fresh_db: Path) -> None:
    run = run_experiment("logit_lens", model="demo", prompts="facts:3", db=fresh_db)
    with sqlite3.connect(fresh_db) as connection:
        connection.execute("UPDATE runs SET status = 'crashed'")
    connection.close()
    assert resume(run.uid, db=fresh_db).status == "done"


@pytest.mark.parametrize(
    "body", ["return 3", "yield 1", "yield batch, Values(metric='m', values=1)"]
)
def test_what_an_experiment_must_yield_is_said(
    body: str, fresh_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "from dataclasses import dataclass",
        "from mlux import experiment",
        "from mlux.results import Metric, Values",
        "@dataclass(frozen=True)",
        "class Config: pass",
        "@experiment(metrics=[Metric(name='m', unit='u', description='d')], prompts='facts:1')",
        "def odd(model, config: Config, batch):",
        "    'Odd.'",
        f"    {body}",
    ]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "odd.py").write_text("\n".join(lines))
    monkeypatch.setenv("MLUX_EXPERIMENTS", str(tmp_path / "folder"))
    run = run_experiment("odd", model="demo", db=fresh_db)
    with Store.open(fresh_db) as store:
        assert "odd " in load_run(store, run.uid).failures[0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "logit_lnes"}, UnknownNameError, "No experiment named"),
        ({"model": "dmeo"}, UnknownNameError, "No model named"),
        ({"prompts": "fcats"}, UnknownNameError, "No prompt set named"),
        (
            {"name": "activation_patching", "prompts": "zero_shot"},
            PromptError,
            "needs corrupted and answer and wrong_answer with every prompt",
        ),
        ({"params": {"topk": 3}}, UnknownNameError, "Did you mean 'top_k'"),
        ({"params": {"top_k": "few"}}, ParameterError, "not a whole number"),
        ({"params": {"top_k": 0}}, ParameterError, "expected at least 1"),
        ({"batch_size": 0}, ParameterError, "batch_size is 0"),
        ({"seed": -1}, ParameterError, "seed is -1"),
        (
            {"name": "induction_heads", "params": {"period": 99_999}},
            ParameterError,
            "words to draw from",
        ),
        ({"params": {"positions": "all"}, "prompts": "facts:2"}, None, ""),
    ],
)
def test_bad_input_leaves_nothing_behind(
    arguments: dict[str, Any], error: type[MluxError] | None, message: str, fresh_db: Path
) -> None:
    given = {"name": "logit_lens", "model": "demo", "db": fresh_db} | arguments
    if error is None:  # the same call with good input does store something
        run_experiment(**given)
        assert fresh_db.exists()
        return
    with pytest.raises(error, match=message):
        run_experiment(**given)
    assert list(fresh_db.parent.iterdir()) == []


def test_a_trial_that_fails_is_marked_and_the_others_go_on(fresh_db: Path) -> None:
    good = {"answer": "mary", "wrong_answer": "john"}
    texts = ("mary gave a book to", "john gave a book to")
    prompts = PromptSet(
        name="mixed",
        prompts=(
            Prompt(text=texts[0], corrupted=texts[1], **good),
            Prompt(text=texts[0], corrupted=texts[0], **good),  # nothing to tell apart
            Prompt(text=texts[1], corrupted=texts[0], **good),
        ),
    )
    run = run_experiment(
        "activation_patching",
        model="demo",
        prompts=prompts,
        params={"sites": ("attn_out",), "controls": False},
        keep_unsolved=True,
        db=fresh_db,
    )
    assert (run.status, run.n_failed) == ("failed", 1)
    with Store.open(fresh_db) as store:
        stored = load_run(store, run.uid)
    assert stored.counts == {"done": 2, "failed": 1, "pending": 0}
    assert "same logit difference" in stored.failures[1]
    assert resume(run.uid, db=fresh_db).n_failed == 1


def rows_of(db: Path) -> dict[str, list[Any]]:
    """What a run stored, in the names that people read, without its times."""
    queries = {
        "layer_results": "SELECT trial, metric, layer, head, position, value, prompt, condition "
        "FROM results",
        "token_predictions": "SELECT prompt, layer, position, rank, token, probability "
        "FROM predictions",
        "trials": "SELECT trial, status, error FROM trials",
        "trial_tokens": "SELECT trial, role, position, text FROM trial_tokens AS t "
        "JOIN tokens ON tokens.id = t.token",
        "runs": "SELECT status, seed, batch_size FROM runs",
    }
    with sqlite3.connect(db) as connection:
        found = {name: sorted(connection.execute(sql)) for name, sql in queries.items()}
    connection.close()
    return found


def test_ctrl_c_finishes_the_batch_and_the_run_can_go_on(
    fresh_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job: dict[str, Any] = {"model": "demo", "prompts": "facts:96", "batch_size": 2}
    batches = plan.prepare("logit_lens", **job).batches
    computed = []

    def compute(*arguments: Any) -> Any:
        computed.append(arguments)
        if len(computed) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return run_batch(*arguments)

    monkeypatch.setattr("mlux.execution.run_batch", compute)
    with pytest.raises(KeyboardInterrupt, match="mlux runs resume"):
        run_experiment("logit_lens", **job, db=fresh_db)
    with Store.open(fresh_db) as store:
        stopped = load_run(store, list_runs(store)[0]["run"])
    assert stopped.status == "crashed"
    assert stopped.counts["done"] == sum(len(batch) for batch in batches[:5])
    assert resume("latest", db=fresh_db).status == "done"
    with Store.open(fresh_db) as store:
        assert load_run(store, stopped.uid).counts["done"] == 96
    with pytest.raises(RunError, match="is done; nothing is left to do"):
        resume("latest", db=fresh_db)


def test_a_run_does_not_resume_on_another_model_or_another_code(
    fresh_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlux import plan
    from mlux.store import creation

    prepared = plan.prepare("logit_lens", model="demo", prompts="facts:4")
    with Store.open(fresh_db, write=True) as store:
        uid = creation.create_run(store, prepared.spec(tags={}, note=None))
    with sqlite3.connect(fresh_db) as connection:
        connection.execute("UPDATE runs SET code_hash = 'other'")
    connection.close()
    with pytest.raises(RunError, match="The code of logit_lens has changed"):
        resume(uid, db=fresh_db)
    with sqlite3.connect(fresh_db) as connection:
        connection.execute("UPDATE runs SET code_hash = ?", [prepared.experiment.code_hash])
    connection.close()
    four_bit = HookedModel.from_pretrained("demo-4bit")
    with monkeypatch.context() as patched:
        patched.setattr("mlux.runner.load_model", lambda source, adapter, dtype=None: four_bit)
        with pytest.raises(RunError, match="is no longer the one"):
            resume(uid, db=fresh_db)
    assert resume(uid, db=fresh_db).status == "done"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 1.5}, "seed is 1.5; expected a whole number from 0"),
        ({"max_failures": -1}, "max_failures is -1; expected a whole number from 0 to"),
        ({"tags": {"": "a"}}, "A tag needs a name"),
        ({"tags": {"a": None}}, "None is not text; tags and notes are."),
        ({"note": "\udcff"}, "has a character that no database can hold."),
        ({"prompts": ["the cat"]}, "The prompts are of type list; expected the name of a set"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_said_before_anything_is_stored(
    fresh_db: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(MluxError) as caught:
        run_experiment("logit_lens", model="demo", db=fresh_db, **arguments)
    assert message in str(caught.value)
    assert not fresh_db.exists()
