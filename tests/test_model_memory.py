"""Of several models in one command, one at a time is in memory."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlux import HookedModel, run_experiment
from mlux.cli.root import cli
from mlux.runner import rerun
from mlux.verify import verify


@pytest.mark.parametrize("dry", [True, False])
def test_a_model_is_let_go_before_the_next_one_is_loaded(
    dry: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    others: list[int] = []
    load = HookedModel.from_pretrained

    def counted(reference: str, **options: Any) -> HookedModel:
        gc.collect()
        others.append(sum(ref() is not None for ref in alive))
        model = load(reference, **options)
        alive.extend((weakref.ref(model), weakref.ref(model.model)))
        return model

    monkeypatch.setattr("mlux.plan._loaded", {})
    monkeypatch.setattr(HookedModel, "from_pretrained", counted)
    arguments = ["--db", str(tmp_path / "mlux.db"), "run", "logit_lens", "--prompts", "facts:2"]
    models = ["-m", "demo", "-m", "demo-4bit", "-m", "demo", "-m", "demo-4bit"]
    done = CliRunner().invoke(cli, [*arguments, *models, *["--dry-run"] * dry])
    assert done.exit_code == 0, done.output
    assert len(others) > 2
    assert set(others) == {0}


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_what_repeats_a_run_loads_its_model_once(
    dtype: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, loads, load = tmp_path / "mlux.db", [], HookedModel.from_pretrained

    def counted(reference: str, **options: Any) -> HookedModel:
        loads.append(options)
        return load(reference, **options)

    monkeypatch.setattr("mlux.plan._loaded", {})
    monkeypatch.setattr(HookedModel, "from_pretrained", counted)
    run = run_experiment("logit_lens", model="demo", prompts="facts:2", dtype=dtype, db=db)
    verify(run.uid, db=db)
    assert len(loads) == 1  # the run's own model, by whatever name it was asked for
    monkeypatch.setattr("mlux.plan._loaded", {})
    rerun(run.uid, db=db)
    assert len(loads) == 2


def test_the_first_of_two_models_is_still_there_when_its_runs_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, load = [], HookedModel.from_pretrained

    def counted(reference: str, **options: Any) -> HookedModel:
        loads.append(reference)
        return load(reference, **options)

    monkeypatch.setattr("mlux.plan._loaded", {})
    monkeypatch.setattr(HookedModel, "from_pretrained", counted)
    arguments = ["--db", str(tmp_path / "mlux.db"), "run", "logit_lens", "--prompts", "facts:2"]
    done = CliRunner().invoke(cli, [*arguments, "-m", "demo", "-m", "demo-4bit"])
    assert done.exit_code == 0, done.output
    assert loads == ["demo-4bit", "demo", "demo-4bit"]
    assert [line.split("\t")[2] for line in done.stdout.splitlines()] == ["demo", "demo-4bit"]
