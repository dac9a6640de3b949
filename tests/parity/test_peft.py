"""Adapters of PEFT in mlux are those of transformers with PEFT, in weights and in logits."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from families import FAMILIES, VOCAB_SIZE
from peft import LoraConfig, get_peft_model
from readings import TOKENS, random_model, save

from mlux.engine import HookedModel

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
PATTERNS = {"rank_pattern": {"layers.1.self_attn.q_proj": 7}, "alpha_pattern": {"v_proj": 32}}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("llama", {"target_modules": ALL}),
    "LoRA with patterns": ("llama", {"target_modules": ALL, **PATTERNS}),
    "rsLoRA": ("llama", {"target_modules": ALL, "use_rslora": True}),
    "DoRA": ("llama", {"target_modules": ALL, "use_dora": True}),
    "biases": ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
    "a bias of B": ("qwen2", {"target_modules": ["q_proj", "k_proj"], "lora_bias": True}),
    "whole modules": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "the embedding": ("llama", {"target_modules": ["embed_tokens", "lm_head"]}),
    "the embedding by DoRA": ("llama", {"target_modules": ["embed_tokens"], "use_dora": True}),
    "a tied head": ("tied", {"target_modules": ["q_proj", "lm_head"]}),
    "a tied embedding": ("tied", {"target_modules": ["embed_tokens"]}),
    "a tied module": ("tied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "Conv1D": ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "Conv1D by DoRA": (
        "gpt2",
        {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "use_dora": True},
    ),
    "fused maps": ("gpt_neox, tanh GELU", {"target_modules": ["query_key_value", "dense_4h_to_h"]}),
    "fused maps of phi3": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
    "norms that add one": ("gemma2", {"target_modules": ALL}),
    "beside experts": ("mixtral", {"target_modules": ATTENTION}),
}
BOUND = 1e-5

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning", "ignore:.*:UserWarning")


@pytest.mark.parametrize(
    ("kind", "sharded"), [*((kind, False) for kind in KINDS), ("LoRA", True), ("DoRA", True)]
)
def test_an_adapter_is_what_peft_makes_of_it(kind: str, sharded: bool, tmp_path: Path) -> None:
    name, options = KINDS[kind]
    family = FAMILIES["llama" if name == "tied" else name]
    model = random_model(family, spread=0.15)
    if name == "tied":
        model.config.tie_word_embeddings = True
        model.tie_weights()
    save(model, family, tmp_path / "base")
    if sharded:
        _shard(tmp_path / "base")
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, **options)).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
        adapted.save_pretrained(tmp_path / "adapter")
        expected = adapted(torch.tensor(TOKENS), use_cache=False).logits.numpy()
    loaded = HookedModel.from_pretrained(tmp_path / "base", adapter_path=tmp_path / "adapter")
    found = np.array(loaded.forward(mx.array(TOKENS)))
    plain = np.array(HookedModel.from_pretrained(tmp_path / "base").forward(mx.array(TOKENS)))
    largest = np.abs(expected).max()
    assert np.abs(plain - expected).max() > 0.01 * largest
    assert np.abs(found - expected).max() <= BOUND * largest
    assert expected.shape[-1] == VOCAB_SIZE


@pytest.mark.parametrize("kind", ["LoRA with patterns", "rsLoRA", "DoRA"])
def test_weights_are_those_that_peft_merges(kind: str, tmp_path: Path) -> None:
    family = FAMILIES["llama"]
    model = random_model(family)
    save(model, family, tmp_path / "base")
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, **KINDS[kind][1])).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    adapted.save_pretrained(tmp_path / "adapter")
    merged = adapted.merge_and_unload().state_dict()
    loaded = HookedModel.from_pretrained(tmp_path / "base", adapter_path=tmp_path / "adapter")
    for layer, block in enumerate(loaded.layers):
        for part, joined in (("self_attn", ATTENTION), ("mlp", ALL[4:])):
            for matrix in joined:
                expected = merged[f"model.layers.{layer}.{part}.{matrix}.weight"].numpy()
                found = np.array(block[part][matrix].weight)
                assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def _shard(folder: Path) -> None:
    """The same weights in two files."""
    weights = mx.load(str(folder / "model.safetensors"))
    names = sorted(weights)
    index: dict[str, str] = {}
    for part in (0, 1):
        file = f"model-0000{part + 1}-of-00002.safetensors"
        mx.save_safetensors(str(folder / file), {n: weights[n] for n in names[part::2]})
        index |= dict.fromkeys(names[part::2], file)
    mx.eval(weights)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
