"""Adapters in PEFT's form against a slow merge in NumPy, and what cannot be merged."""

import importlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from adapters import DEMO, lora_adapter
from click.testing import CliRunner
from mlx.utils import tree_flatten
from tiny import CONFIGS

from mlux.cli.root import cli
from mlux.engine import HookedModel
from mlux.errors import ModelError

TOKENS = mx.array([[3, 5, 7, 11, 13, 17, 19, 23]])
LAYER = "model.layers.1."
Q, GATE = f"{LAYER}self_attn.q_proj", f"{LAYER}block_sparse_moe.gate"
SQUARE = (32, 32)
EXPERTS = [
    f"{LAYER}block_sparse_moe.experts.{i}.{matrix}" for i in (0, 2) for matrix in ("w1", "w2")
]
Arrays = dict[str, mx.array]


def base(folder: Path, family: str, *, stacked: bool = False, bits: int | None = None) -> Path:
    """A tiny random model's folder, with experts as transformers or as mlx-lm names them."""
    config: dict[str, Any] = CONFIGS[family] | {"model_type": family, "intermediate_size": 64}
    module = importlib.import_module(f"mlx_lm.models.{family}")
    mx.random.seed(1)
    model = module.Model(module.ModelArgs.from_dict(config))
    if bits:
        nn.quantize(model, group_size=32, bits=bits)
        config["quantization"] = {"group_size": 32, "bits": bits}
    weights: Arrays = dict(tree_flatten(model.parameters()))
    names = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
    for name in [] if stacked else [name for name in weights if "switch_mlp" in name]:
        before, matrix, _ = name.replace("switch_mlp", "experts").rsplit(".", 2)
        for i, expert in enumerate(weights.pop(name)):
            weights[f"{before}.{i}.{names[matrix]}.weight"] = expert
    for file in DEMO.iterdir():
        if not file.name.startswith(("model", "config")):
            folder.mkdir(exist_ok=True)
            shutil.copy(file, folder)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def adapter(
    folder: Path, shapes: Mapping[str, tuple[int, int]], rank: int = 3, **settings: Any
) -> dict[str, Any]:
    """Random PEFT weights by module for maps of [out, in], and what was written."""
    rng = np.random.default_rng(4)
    drawn: dict[str, Any] = {}
    for module, (out, into) in shapes.items():
        drawn[f"{module}.lora_A.weight"] = rng.normal(0, 0.2, (rank, into))
        drawn[f"{module}.lora_B.weight"] = rng.normal(0, 0.2, (out, rank))
        if settings.get("use_dora"):
            drawn[f"{module}.lora_magnitude_vector"] = rng.uniform(0.5, 2, out)
    write(
        folder,
        {name: mx.array(value.astype(np.float32)) for name, value in drawn.items()},
        **settings,
    )
    return drawn


def write(folder: Path, weights: Arrays, **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"base_model.model.{name}": array for name, array in weights.items()}
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), named)
    written = {"peft_type": "LORA", "r": 3, "lora_alpha": 5} | settings
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return folder


def merged_by_hand(
    weight: Any, drawn: dict[str, Any], module: str, settings: Mapping[str, Any]
) -> Any:
    """One weight [out, in], entry by entry, in float64."""
    low, high = drawn[f"{module}.lora_A.weight"], drawn[f"{module}.lora_B.weight"]
    rank = len(low)
    scale = 5 / (rank**0.5 if settings.get("use_rslora") else rank)
    result = np.array(weight, dtype=np.float64)
    for row in range(result.shape[0]):
        for column in range(result.shape[1]):
            result[row, column] += scale * sum(high[row, k] * low[k, column] for k in range(rank))
        if settings.get("use_dora"):
            magnitude = drawn[f"{module}.lora_magnitude_vector"][row]
            result[row] *= magnitude / np.sqrt((result[row] ** 2).sum())
    return result


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}])
@pytest.mark.parametrize(("stacked", "bits"), [(False, None), (True, None), (True, 4)])
def test_a_merge_is_that_of_the_definition(
    settings: dict[str, Any], stacked: bool, bits: int | None, tmp_path: Path
) -> None:
    """Attention, the router and single experts, in either library's files, quantised too."""
    folder = base(tmp_path / "base", "mixtral", stacked=stacked, bits=bits)
    shapes = {Q: (32, 32), GATE: (4, 32)}
    shapes |= {name: (64, 32) if name.endswith("w1") else (32, 64) for name in EXPERTS}
    drawn = adapter(tmp_path / "adapter", shapes, **settings)
    plain = HookedModel.from_pretrained(folder)
    found = HookedModel.from_pretrained(folder, adapter_path=tmp_path / "adapter")
    for module in shapes:
        before, after = (_weight(model, module) for model in (plain, found))
        expected = merged_by_hand(before, drawn, module, settings)
        np.testing.assert_allclose(after, expected, atol=1e-6 * np.abs(expected).max())
    others = [f"{LAYER}self_attn.k_proj", f"{LAYER}block_sparse_moe.experts.1.w1"]
    for module in others:
        assert np.array_equal(_weight(plain, module), _weight(found, module))
    assert not mx.allclose(plain.forward(TOKENS), found.forward(TOKENS), atol=1e-3)
    assert f"rank 3, merged into {len(shapes)} weights" in found.adapter_note
    assert ("held unquantised" in found.adapter_note) == bool(bits)


def _weight(model: HookedModel, module: str) -> Any:
    """A map's weight [out, in], dequantised, by transformers' name."""
    path, _, expert = module.partition(".experts.")
    names = {"w1": "gate_proj", "w2": "down_proj"}
    if expert:
        path = f"{path}.switch_mlp.{names[expert[-2:]]}"
    layer = dict(model.model.named_modules())[path]
    weight = layer.weight
    if "scales" in layer:
        weight = mx.dequantize(weight, layer.scales, layer.biases, layer.group_size, layer.bits)
    return np.array(weight[int(expert[0])] if expert else weight)


def test_whole_modules_biases_and_other_wrappers_find_their_place(tmp_path: Path) -> None:
    folder = base(tmp_path / "base", "qwen2")
    rng = np.random.default_rng(0)
    head, bias = (mx.array(rng.normal(size=s).astype(np.float32)) for s in ((101, 32), (32,)))
    new = {
        "lm_head.weight": head,
        "model.language_model.layers.1.self_attn.q_proj.base_layer.bias": bias,
    }
    write(tmp_path / "adapter", new)
    model = HookedModel.from_pretrained(folder, adapter_path=tmp_path / "adapter").model
    assert mx.array_equal(model.lm_head.weight, head)
    assert mx.array_equal(model.layers[1].self_attn.q_proj.bias, bias)


@pytest.mark.parametrize("form", ["cache", "snapshot"])
def test_an_adapter_in_the_hubs_cache_is_found(form: str, tmp_path: Path) -> None:
    folder = base(tmp_path / "base", "llama")
    cache = tmp_path / "models--org--lora"
    adapter(cache / "snapshots" / "abc", {Q: (32, 32)})
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    given = cache if form == "cache" else cache / "snapshots" / "abc"
    model = HookedModel.from_pretrained(folder, adapter_path=given)
    assert "merged into 1 weights" in model.adapter_note
    assert model._loaded is not None
    assert model._loaded.adapter_source == str(given.resolve())


REFUSED: dict[str, tuple[dict[str, tuple[int, int]], dict[str, Any], str]] = {
    "another kind": ({Q: SQUARE}, {"peft_type": "IA3"}, "peft_type is IA3"),
    "a module that is not there": (
        {"model.layers.9.x": (2, 2)},
        {},
        r"do not have: model.layers.9",
    ),
    "another width": ({Q: (16, 16)}, {}, r"\[16, 16\], and this model's is \[32, 32\]: .* org/big"),
    "PiSSA": (
        {Q: (32, 32)},
        {"init_lora_weights": "pissa_niter_4"},
        "pissa_niter_4, which changes",
    ),
    "new tokens": ({Q: SQUARE}, {"trainable_token_indices": [1]}, "trainable_token_indices"),
    "parameters": ({Q: SQUARE}, {"target_parameters": ["experts"]}, "target_parameters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_merged_is_named_in_one_line(case: str, tmp_path: Path) -> None:
    shapes, settings, message = REFUSED[case]
    folder = base(tmp_path / "base", "llama")
    adapter(tmp_path / "adapter", shapes, base_model_name_or_path="org/big", **settings)
    with pytest.raises(ModelError, match=message) as raised:
        HookedModel.from_pretrained(folder, adapter_path=tmp_path / "adapter")
    assert "\n" not in str(raised.value)


def test_weights_in_a_pickle_and_half_a_product_are_refused(tmp_path: Path) -> None:
    folder = base(tmp_path / "base", "llama")
    write(tmp_path / "adapter", {f"{Q}.lora_A.weight": mx.zeros((3, 32))})
    with pytest.raises(ModelError, match=r"one half of .*q_proj alone"):
        HookedModel.from_pretrained(folder, adapter_path=tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors"):
        HookedModel.from_pretrained(folder, adapter_path=tmp_path / "adapter")


def test_an_adapter_given_as_the_model_says_where_it_belongs(tmp_path: Path) -> None:
    adapter(tmp_path / "adapter", {Q: (32, 32)})
    with pytest.raises(ModelError, match="holds an adapter: give its base model"):
        HookedModel.from_pretrained(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("made_for", "said"), [("org/Demo-4bit", False), ("org/other", True), (None, False)]
)
def test_a_check_says_what_was_merged_and_for_whom_it_was_made(
    made_for: str | None, said: bool, tmp_path: Path
) -> None:
    adapter(tmp_path / "adapter", {Q: (128, 128)}, base_model_name_or_path=made_for)
    db = str(tmp_path / "check.db")
    command = ["--db", db, "models", "check", "demo", "--adapter", str(tmp_path / "adapter")]
    shown = CliRunner().invoke(cli, command)
    assert shown.exit_code == 0, shown.output
    assert "LoRA of PEFT, rank 3, merged into 1 weights" in shown.output
    assert ("made for org/other, not for demo" in shown.output) == said


def test_adapters_of_mlx_lm_stay_layers_beside_the_weights(tmp_path: Path) -> None:
    model = HookedModel.from_pretrained("demo", adapter_path=lora_adapter(tmp_path / "adapter"))
    assert model.adapter_note == ""
    assert type(model.layers[-1].self_attn.q_proj).__name__ == "LoRALinear"
