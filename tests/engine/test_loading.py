"""Models by name, folder and hub id; and one clear line for what is none of these."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from adapters import lora_adapter
from architectures import build

from mlux.engine import HookedModel, loading
from mlux.errors import HookError, ModelError, PromptError, UnknownNameError

DEMO = loading.find("demo").folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the built-in model that a test may break."""
    return Path(shutil.copytree(DEMO, tmp_path / "copy"))


def test_the_demo_model_has_the_sizes_of_its_card() -> None:
    model = HookedModel.from_pretrained("demo")
    config = model.config
    assert {key: config[key] for key in ("n_layers", "n_heads", "d_head", "d_model")} == {
        "n_layers": 6,
        "n_heads": 4,
        "d_head": 32,
        "d_model": 128,
    }
    assert config["model_type"] == "llama"
    assert config["quantization"] is None
    assert "HookedModel(llama, 6 layers, 4 heads" in repr(model)


def test_a_folder_is_the_same_model_as_the_built_in_one(folder: Path) -> None:
    built_in = HookedModel.from_pretrained("demo")
    copied = HookedModel.from_pretrained(folder)
    assert copied.identity.content_hash == built_in.identity.content_hash
    assert (copied.identity.name, copied.identity.source) == ("copy", str(folder.resolve()))
    text = "the capital of france is"
    assert mx.array_equal(copied.forward(text), built_in.forward(text))


def test_other_weights_are_another_model(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = mx.load(str(weights))
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.5
    mx.save_safetensors(str(weights), tensors, metadata={"format": "mlx"})
    changed = HookedModel.from_pretrained(folder).identity
    assert changed.content_hash != HookedModel.from_pretrained("demo").identity.content_hash


def test_bits_and_dtype_are_part_of_a_models_identity() -> None:
    identities = [
        HookedModel.from_pretrained("demo").identity,
        HookedModel.from_pretrained("demo", dtype="float16").identity,
        HookedModel.from_pretrained("demo-4bit").identity,
    ]
    assert len({identity.content_hash for identity in identities}) == 3
    assert [identity.dtype for identity in identities[1:]] == ["float16", identities[0].dtype]
    assert (identities[2].quant_bits, identities[2].quant_group_size) == (4, 32)
    assert identities[0].quant_bits is None


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_dtype_keeps_its_precision_through_a_hook(dtype: str) -> None:
    model = HookedModel.from_pretrained("demo", dtype=dtype)
    _, cache = model.run_with_cache("the capital of france is")
    assert {str(array.dtype) for array in cache.values()} == {f"mlx.core.{dtype}"}
    assert model.config["dtype"] == dtype


def test_a_hub_id_is_found_in_the_local_cache(tmp_path: Path) -> None:
    """The layout of the hub's cache: blobs, a snapshot that links to them, and a ref."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--lab--tiny"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for file in DEMO.iterdir():
        shutil.copy(file, snapshot / file.name)
    script = (
        "from mlux.engine import HookedModel\n"
        "import json\n"
        "identity = HookedModel.from_pretrained('lab/tiny').identity\n"
        "print(json.dumps([identity.name, identity.source, identity.revision]))\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == ["lab/tiny", "lab/tiny", commit]


def test_unknown_names_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnknownNameError, match=r"No model named 'dmo'. Did you mean 'demo'"):
        HookedModel.from_pretrained("dmo")
    with pytest.raises(ModelError, match=r"No folder at './absent'"):
        HookedModel.from_pretrained("./absent")
    with pytest.raises(ModelError, match=r"Cannot get the model 'lab/absent' from the hub"):
        HookedModel.from_pretrained("lab/absent")
    with pytest.raises(UnknownNameError, match=r"No dtype named 'float61'"):
        HookedModel.from_pretrained("demo", dtype="float61")
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelError, match="is a file; expected a folder"):
        HookedModel.from_pretrained(file)


def test_a_folder_that_holds_no_model_is_refused(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        HookedModel.from_pretrained(empty)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        HookedModel.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="Cannot load the model 'copy'"):
        HookedModel.from_pretrained(folder)


def test_an_architecture_that_mlx_lm_does_not_know_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch"}))
    with pytest.raises(ModelError, match="Model type nonesuch not supported"):
        HookedModel.from_pretrained(folder)


def test_a_rotary_base_saved_by_transformers_5_is_not_lost(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    plain = HookedModel.from_pretrained("demo").forward("the capital of france is")
    logits = {}
    for name, rope in (
        ("flat", {"rope_theta": 5e5}),
        ("nested", {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}),
    ):
        own = {key: value for key, value in config.items() if not key.startswith("rope")}
        (folder / "config.json").write_text(json.dumps(own | rope))
        logits[name] = HookedModel.from_pretrained(folder).forward("the capital of france is")
    assert mx.array_equal(logits["flat"], logits["nested"])
    assert not mx.allclose(logits["flat"], plain, atol=1e-3)


def test_a_model_whose_code_ends_the_process_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "olmo"}))
    with pytest.raises(ModelError, match="Cannot load the model 'copy'"):
        HookedModel.from_pretrained(folder)


def test_an_adapter_changes_the_model_and_its_identity(tmp_path: Path) -> None:
    adapter = lora_adapter(tmp_path / "adapter")
    plain = HookedModel.from_pretrained("demo")
    adapted = HookedModel.from_pretrained("demo", adapter_path=adapter)
    text = "the capital of france is"
    assert not mx.allclose(plain.forward(text), adapted.forward(text))
    assert adapted.identity.adapter_source == str(adapter.resolve())
    assert adapted.identity.content_hash != plain.identity.content_hash
    # The canonical places are found in an adapted model too.
    logits, cache = adapted.run_with_cache(text, hooks=["model.layers.5"])
    assert mx.array_equal(adapted.unembed(cache["model.layers.5"]), logits)
    with pytest.raises(ModelError, match=r"has no adapter_config\.json"):
        HookedModel.from_pretrained("demo", adapter_path=tmp_path / "absent")


@pytest.mark.parametrize("name", ["kimi_vl", "llama4", "baichuan_m1", "youtu_llm", "llama"])
def test_a_bare_model_without_a_tokenizer_says_its_own_sizes(name: str) -> None:
    built = build(name)
    bare = HookedModel(built.model, None)
    assert bare.config["vocab_size"] == built.config["vocab_size"]
    assert mx.array_equal(bare.forward(mx.array([[1, 2, 3]])), built.forward(mx.array([[1, 2, 3]])))
    with pytest.raises(PromptError, match="this model knows tokens 0 to"):
        bare.forward([built.config["vocab_size"]])


def test_a_model_made_in_memory_cannot_be_filed() -> None:
    loaded = HookedModel.from_pretrained("demo")
    model = HookedModel(loaded.model, loaded.tokenizer)
    assert model.config["vocab_size"] == loaded.config["vocab_size"]
    with pytest.raises(ModelError, match="was made in memory"):
        _ = model.identity


def test_text_becomes_tokens_in_every_form() -> None:
    model = HookedModel.from_pretrained("demo")
    text = "the capital of france is"
    ids = model.tokenize(text)
    assert ids[0] == model.tokenizer.bos_token_id
    assert model.tokenize(text, add_bos=False) == ids[1:]
    for form in (text, ids, [text], mx.array(ids), mx.array([ids])):
        assert model.to_batch(form).tokens.tolist() == [ids]
    batch = model.to_batch([text, "mary lives in"])
    assert batch.lengths == (6, 4)
    assert batch.last.tolist() == [5, 3]
    assert batch.row_ids(1) == model.tokenize("mary lives in")


def test_what_cannot_be_run_is_refused() -> None:
    model = HookedModel.from_pretrained("demo")
    limit = model.config["context_length"]
    with pytest.raises(PromptError, match=rf"A prompt has {limit + 1} tokens; .* is {limit}"):
        model.forward(" ".join(["dog"] * limit))
    with pytest.raises(PromptError, match="has no tokens"):
        model.forward([])
    with pytest.raises(PromptError, match=r"expected integers \[batch, seq\]"):
        model.forward(mx.zeros((1, 2, 3), dtype=mx.int32))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1, 999_999], "There is token 999999; this model knows tokens 0 to"),
        (mx.array([[1, 5000]]), "There is token 5000"),
        ([1, -1], "There is token -1"),
        ([2**40], "There is token"),
        ([1.7, 2.2], "A token id is no whole number"),
        (mx.array([1.0]), "expected integers"),
        (b"abc", "bytes cannot be run"),
        (None, "NoneType cannot be run"),
    ],
)
def test_what_is_no_token_is_refused(x: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        HookedModel.from_pretrained("demo").forward(x)


def test_nested_lists_and_numpy_arrays_are_tokens_too() -> None:
    model = HookedModel.from_pretrained("demo")
    expected = model.forward(mx.array([[1, 2], [3, 4]]))
    for x in ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]])):
        assert mx.array_equal(model.forward(x), expected)


@pytest.mark.parametrize("positions", [mx.array([99]), mx.array([1, 2]), [5], mx.array([-1])])
def test_positions_that_no_row_has_are_refused(positions: Any) -> None:
    model = HookedModel.from_pretrained("demo")
    with pytest.raises(HookError, match="positions"):
        model.run_with_cache("mary lives in", positions=positions)


def test_a_run_from_the_middle_sees_nothing_before_it() -> None:
    model = HookedModel.from_pretrained("demo")
    _, cache = model.run_with_cache("mary lives in", hooks=["model.layers.3.input"])
    with pytest.raises(HookError, match="lies before block 3, where this run begins"):
        model.run_from(3, cache["model.layers.3.input"], captures=["model.layers.1"])


def test_weights_that_are_not_numbers_are_said(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = mx.load(str(weights))
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name] * float("nan")
    mx.save_safetensors(str(weights), tensors, metadata={"format": "mlx"})
    with pytest.raises(ModelError, match="not finite"):
        _ = HookedModel.from_pretrained(folder).config


@pytest.mark.parametrize("config", ["[]", "{}", '{"model_type": "llama"}', "{"])
def test_a_configuration_that_makes_no_model_is_one_line(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(ModelError, match="Cannot load the model 'copy'") as caught:
        HookedModel.from_pretrained(folder)
    assert "\n" not in str(caught.value)
