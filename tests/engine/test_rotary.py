"""Rotary settings reach the model from every form of config.json; `make parity` has the matrix."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlux.engine import loading, rope_settings, rotary

LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "original_max_position_embeddings": 16,
    "short_factor": [1.0] * 16,
    "long_factor": [4.0] * 16,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(loading.find("demo").folder, tmp_path / "copy"))


def load(folder: Path, **changes: Any) -> loading.LoadedModel:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key in ("rope_theta", "rope_scaling", "rope_parameters"):
        config.pop(key, None)
    path.write_text(json.dumps(config | changes))
    return loading.load(loading.find(folder))


def test_longrope_is_short_within_the_original_context_and_long_beyond(folder: Path) -> None:
    tokens = mx.arange(40)[None] % 50
    plain = load(folder, rope_parameters={"rope_type": "default", "rope_theta": 1e4}).model
    scaled = load(folder, rope_parameters=LONG | {"attention_factor": 1.0}).model
    assert mx.allclose(scaled(tokens[:, :16]), plain(tokens[:, :16]), atol=1e-4)
    assert not mx.allclose(scaled(tokens), plain(tokens), atol=1e-2)


@pytest.mark.parametrize("kind", ["linear", "dynamic", "llama3", "yarn", "longrope"])
def test_every_module_turns_as_its_type_is_defined(folder: Path, kind: str) -> None:
    scaling = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0} | LONG
    loaded = load(folder, rope_parameters=scaling | {"rope_type": kind})
    found = list(rotary.places(loaded.model, loaded.written))
    assert len(found) == 6
    assert all((rotary.error(place) or 0) <= 1 for place in found)
    assert all(isinstance(place.module, rotary.Rotary) for place in found)


def test_the_forms_of_a_file_say_the_same() -> None:
    scaling = {"factor": 8.0, "rope_type": "linear"}
    sets = {
        "full_attention": {"rope_theta": 1e6, **scaling},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    flat = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": scaling}
    expected = rope_settings.settings({"model_type": "gemma3_text", "rope_parameters": sets})
    assert expected["full_attention"]["factor"] == 8.0
    for form in (flat, {"rope_parameters": sets}):
        text = {"model_type": "gemma3_text", **form}
        assert rope_settings.settings(text) == expected
        assert rope_settings.settings({"model_type": "gemma3", "text_config": text}) == expected


def test_a_nested_base_reaches_a_model_inside_another() -> None:
    text = {"model_type": "mistral", "rope_parameters": {"rope_type": "default", "rope_theta": 1e9}}
    told = rope_settings.for_mlx_lm({"model_type": "mistral3", "text_config": text})
    assert told["text_config"]["rope_theta"] == 1e9


def test_other_architectures_keep_what_their_files_say() -> None:
    written = {"model_type": "hunyuan", "rope_scaling": {"type": "dynamic", "alpha": 1000.0}}
    assert "rope_scaling" not in rope_settings.for_mlx_lm(written)
