"""What a search or a training learns is stored step by step: kept by a kill, shown, taken up."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from forking import Forks

from mlux import load_artifact, run_experiment
from mlux.cli.root import cli
from mlux.errors import ParameterError
from mlux.runner import resume
from mlux.store.writer import RunWriter

KILLED = """
import os, signal
from mlux.engine import HookedModel
from mlux import registry
from mlux.runner import run_experiment
from mlux.runner import resume
from mlux.store.writer import RunWriter

for name in registry.names():
    registry.get(name)

def main(db, name, options, kill_at):
    put, steps = RunWriter.put_artifacts, []

    def counted(self, artifacts, *, learned=None):
        put(self, artifacts, learned=learned)
        steps.extend([learned] * (learned is not None))
        if len(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    RunWriter.put_artifacts = counted
    run_experiment(name, model="demo", db=db, **options)
"""
NOT_BY_ITSELF = ("before", 10**9)  # `main` kills itself, right after its step has been committed
LEARNED = "SELECT message FROM run_events WHERE kind = 'learned' ORDER BY id"
VALUES = "SELECT prompt, condition, metric, layer, head, position, value FROM results"

# What each experiment learns before its sweep, and at which of its steps it is killed.
SEARCHES: list[tuple[str, dict[str, Any], str, int]] = [
    ("refusal_direction", {"prompts": "requests:24"}, "direction after block", 5),
    ("steering", {"prompts": "reviews:8", "params": {"folds": 2}}, "strength", 3),
    ("tuned_lens", {"prompts": "few_shot:8", "params": {"steps": 3}}, "loss", 7),
    ("function_vectors", {"params": {"n_prompts": 4, "n_random": 1}}, "indirect effects", 5),
    ("activation_patching", {"prompts": "ioi:4", "params": {"sites": ("head",)}}, "heads on", 4),
    ("path_patching", {"prompts": "induction:4"}, "heads on", 4),
    ("probing", {"prompts": "reviews:16", "params": {"draws": 3}}, "accuracy", 2),
    ("ablation", {"prompts": "induction:4", "params": {"sites": ("mlp_out",)}}, "baseline", 1),
]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    process = Forks(KILLED)
    yield process
    process.close()


def asked(db: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(db)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize(("name", "options", "said", "kill_at"), SEARCHES)
def test_a_run_killed_at_a_step_has_it_and_a_resume_goes_on_from_there(
    name: str,
    options: dict[str, Any],
    said: str,
    kill_at: int,
    forks: Forks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, killed = tmp_path / "whole.db", tmp_path / "killed.db"
    forks.kill(NOT_BY_ITSELF, str(killed), name, options, kill_at)
    assert len(asked(killed, LEARNED)) == kill_at
    assert len(asked(killed, "SELECT name FROM artifacts WHERE kind = 'step'")) == kill_at
    put, learned = RunWriter.put_artifacts, []

    def counted(self: RunWriter, artifacts: Any, **more: Any) -> None:
        learned.extend([artifact.name for artifact in artifacts] * ("learned" in more))
        put(self, artifacts, **more)

    run_experiment(name, model="demo", db=whole, **options)
    monkeypatch.setattr(RunWriter, "put_artifacts", counted)
    assert resume("latest", db=killed).status == "done"
    messages = asked(whole, LEARNED)
    assert any(said in message for (message,) in messages)
    assert asked(killed, LEARNED) == messages
    assert len(learned) == len(messages) - kill_at  # nothing is learned twice
    assert sorted(asked(killed, VALUES), key=repr) == sorted(asked(whole, VALUES), key=repr)
    assert asked(killed, "SELECT kind FROM run_events WHERE kind = 'differs'") == []


def test_what_was_learned_can_be_looked_at_when_the_end_fails(tmp_path: Path) -> None:
    db = tmp_path / "mlux.db"
    options = {"prompts": "requests:24", "params": {"most_kl": 0.0}}
    with pytest.raises(ParameterError, match="KL of at most 0"):
        run_experiment("refusal_direction", model="demo", db=db, **options)
    shown = CliRunner().invoke(cli, ["--db", str(db), "runs", "show", "latest"])
    assert "direction after block 3 at token -1: bypass" in shown.output
    candidate = load_artifact(db, "latest", "candidate.3.-1")
    assert candidate["vector"].shape == (128,)
    assert len(candidate["induce"]) == len(candidate["kl"])
    assert len(asked(db, LEARNED)) == 18  # six blocks at three tokens


def test_a_tuned_lens_keeps_the_loss_of_every_step(tmp_path: Path) -> None:
    db = tmp_path / "mlux.db"
    options = {"prompts": "few_shot:8", "params": {"steps": 10}}
    run_experiment("tuned_lens", model="demo", db=db, **options)
    losses = load_artifact(db, "latest", "tuned_lens.0")["loss"]
    assert losses.shape == (5, 10)
    assert (losses[:, -1] < losses[:, 0]).all()
    assert load_artifact(db, "latest", "translator.0.4")["loss"].tolist() == losses[4].tolist()
