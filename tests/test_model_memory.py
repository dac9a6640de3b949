"""Of several models in one command, one at a time is in memory."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlux import HookedModel
from mlux.cli.root import cli


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
    models = ["-m", "demo", "-m", "demo-4bit", "-m", "demo"]
    done = CliRunner().invoke(cli, [*arguments, *models, *["--dry-run"] * dry])
    assert done.exit_code == 0, done.output
    assert len(others) > 2
    assert set(others) == {0}
