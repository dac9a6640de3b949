"""Settings of config.json that mlx-lm does not read are named, in a check and with each run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from architectures import build

from mlux import run_experiment
from mlux.engine import HookedModel, loading
from mlux.engine.unread import unread
from mlux.store import Store

SILENT = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "use_sliding_window": False,
    "sliding_window": 32,
    "initializer_range": 0.02,
    "attention_bias": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(loading.find("demo").folder, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("architecture", "setting", "found"),
    [
        ("qwen2", {}, ()),
        ("qwen2", {"logits_scaling": 8.0}, ("logits_scaling = 8.0",)),
        ("qwen2", {"final_logit_softcapping": 30.0}, ("final_logit_softcapping = 30.0",)),
        ("qwen2", {"hidden_act": "relu2"}, ("hidden_act = relu2",)),
        (
            "qwen2",
            {"use_sliding_window": True},
            ("use_sliding_window = True", "sliding_window = 32"),
        ),
        ("gemma2", {"hidden_act": "gelu_new", "final_logit_softcapping": 30.0}, ()),
        ("granite", {"logits_scaling": 8.0}, ()),
    ],
)  # fmt: skip
def test_what_is_stated_and_not_read(
    architecture: str, setting: dict[str, Any], found: tuple[str, ...]
) -> None:
    config = {"model_type": architecture, **SILENT, **setting}
    assert unread(build(architecture).model, config) == found
    inside = {"model_type": "several", "text_config": config}
    assert unread(build(architecture).model, inside) == found


def test_a_field_that_is_accepted_and_forgotten_is_named() -> None:
    """mlx-lm's nemotron declares `hidden_act` and never looks at it."""
    config = {"model_type": "nemotron", "hidden_act": "gelu_new"}
    assert unread(build("nemotron").model, config) == ("hidden_act = gelu_new",)


def test_a_check_and_a_run_say_it(folder: Path, fresh_db: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attn_logit_softcapping": 50.0}))
    row = HookedModel.from_pretrained(folder).check().row("config")
    assert (row.verdict, row.reason) == ("approximate", "not read: attn_logit_softcapping = 50.0")
    run_experiment("logit_lens", model=folder, prompts="facts:1", db=fresh_db)
    with Store.open(fresh_db) as store, store.reading() as connection:
        query = "SELECT message FROM run_events WHERE kind = 'unread'"
        said = connection.execute(sa.text(query)).scalars().all()
    assert said == ["mlx-lm does not read attn_logit_softcapping = 50.0"]


def test_a_certificate_says_what_was_compared_with_what() -> None:
    found = HookedModel.from_pretrained("demo").check()
    assert "not with transformers" in repr(found)
    assert "transformers" in found.row("rotary").compared
    assert "itself" in found.row("lens").compared
