"""Rotary settings of every type, and the forms in which a config.json can say them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from families import FAMILIES, VOCAB_SIZE, Family
from readings import random_model, save

from mlux.engine import loading
from mlux.engine.rope_settings import PROVED

ORIGINAL, LONGEST = 16, 64
LENGTHS = (12, 40)
"""Within and beyond the original context."""

TOKENS = {n: (np.arange(2 * n).reshape(2, n) * 7 + 3) % VOCAB_SIZE for n in LENGTHS}

SPREAD = 0.2
"""Of the weights: large enough that a lost setting changes logits by 0.02 or more, and small enough
that gemma, which multiplies a difference by 10 in each block, stays within the bound."""

SETS = {"full_attention", "sliding_attention"}
WRAPPERS = {"mistral": "mistral3", "gemma3_text": "gemma3"}
"""Text models, and the models with several parts that hold them inside `text_config`."""

TYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 8.0},
    "dynamic": {"factor": 4.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 4.0, "beta_fast": 4.0},
    "yarn, mscale": {"factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.4},
    "yarn, own factor": {"factor": 4.0, "attention_factor": 1.3, "truncate": False},
    "longrope": {"short_factor": [1.0, 1.1], "long_factor": [2.0, 9.0]},
}
_LAYER_SETS = frozenset({"gemma3_text", "olmo3"})
_TYPES_OF = {"phi3": ("default", "longrope")}
"""transformers refuses the others."""

_WIDER = {
    "mixtral": {"head_dim": 8},  # without it transformers knows no width but for `default`
    "gpt_neox": {"num_attention_heads": 2},  # dynamic divides by the turned dimensions less two
    "stablelm": {"num_attention_heads": 2, "num_key_value_heads": 2},
}


def rows() -> dict[str, Family]:
    """One family for each architecture of `PROVED`, one without a difference of another kind."""
    found: dict[str, Family] = {}
    for family in FAMILIES.values():
        name = family.model_type
        if name in PROVED and name not in found and not family.differs:
            found[name] = replace(family, config={**family.config, **_WIDER.get(name, {})})
    assert found.keys() == PROVED
    return found


ROWS = rows()


def cases() -> Iterator[tuple[str, str]]:
    for model_type in sorted(ROWS):
        for kind in _TYPES_OF.get(model_type, TYPES):
            # transformers reads `truncate` only where all layers are alike.
            if not (kind == "yarn, own factor" and model_type in _LAYER_SETS):
                yield model_type, kind


def _rope(family: Family, kind: str) -> dict[str, Any]:
    """The settings in the form of transformers 5."""
    old = family.config.get("rope_parameters", {})
    name = kind.partition(",")[0]
    one = {"rope_type": name, "rope_theta": old.get("rope_theta", 5e5), **TYPES[kind]}
    part = old.get("partial_rotary_factor")
    if part is not None:
        one["partial_rotary_factor"] = part
    if name in ("llama3", "yarn", "longrope"):
        one["original_max_position_embeddings"] = ORIGINAL
    if name == "longrope":
        pairs = int(_d_head(family) * (1.0 if part is None else part)) // 2
        for key in ("short_factor", "long_factor"):
            first, last = TYPES[kind][key]
            one[key] = np.linspace(first, last, pairs).tolist()
    if family.model_type not in _LAYER_SETS:
        return one
    local = 5e5 if family.model_type == "olmo3" else 1e4
    return {
        "full_attention": one,
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }


def _d_head(family: Family) -> int:
    config = family.config
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The form of transformers 4."""
    flat = dict(config)
    found = flat.pop("rope_parameters")
    if SETS & found.keys():
        flat["rope_local_base_freq"] = found["sliding_attention"]["rope_theta"]
        found = found["full_attention"]
    names = ("rope_theta", "partial_rotary_factor")
    if config["model_type"] == "gpt_neox":
        names = ("rotary_emb_base", "rotary_pct")
    for name, key in zip(("rope_theta", "partial_rotary_factor"), names, strict=True):
        if name in found:
            flat[key] = found[name]
    scaling = {k: v for k, v in found.items() if k not in ("rope_theta", "partial_rotary_factor")}
    flat["rope_scaling"] = None if found["rope_type"] == "default" else scaling
    return flat


def oldest(config: Mapping[str, Any]) -> dict[str, Any]:
    """The form of transformers 4 before it renamed `type`."""
    old = flat(config)
    if old["rope_scaling"]:
        old["rope_scaling"]["type"] = old["rope_scaling"].pop("rope_type")
    return old


def nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """The form of transformers 5."""
    return dict(config)


FORMS = {"flat": flat, "flat, type": oldest, "nested": nested}


@cache
def differences(model_type: str, kind: str) -> dict[tuple[str, int], float]:
    """The largest difference of the logits by form and length."""
    family = ROWS[model_type]
    settings = {"rope_parameters": _rope(family, kind)}
    settings["max_position_embeddings"] = ORIGINAL if kind == "dynamic" else LONGEST
    if kind == "longrope" and model_type == "phi3":
        settings["original_max_position_embeddings"] = ORIGINAL
    model = random_model(replace(family, config={**family.config, **settings}), spread=SPREAD)
    with TemporaryDirectory() as name:
        folder = Path(name)
        save(model, family, folder)
        expected = _by_transformers(model)
        return {
            (form, n): float(np.abs(np.array(ours(mx.array(ids))) - expected[n]).max())
            for form, ours in _in_every_form(folder, model_type)
            for n, ids in TOKENS.items()
        }


def _by_transformers(model: Any) -> dict[int, Any]:
    with torch.no_grad():
        return {
            n: model(torch.tensor(ids), use_cache=False).logits.numpy() for n, ids in TOKENS.items()
        }


def _in_every_form(folder: Path, model_type: str) -> Iterator[tuple[str, Any]]:
    """The model as mlux loads it from each form of its configuration."""
    path, weights = folder / "config.json", folder / "model.safetensors"
    saved = json.loads(path.read_text())
    written = {form: write(saved) for form, write in FORMS.items()}
    for form, config in written.items():
        path.write_text(json.dumps(config))
        yield form, loading.load(loading.find(folder)).model
    wrapper = WRAPPERS.get(model_type)
    if wrapper is None:
        return
    inside = {f"language_model.{name}": array for name, array in mx.load(str(weights)).items()}
    mx.eval(inside)
    mx.save_safetensors(str(weights), inside, metadata={"format": "mlx"})
    for form, config in written.items():
        several = {"model_type": wrapper, "vocab_size": config["vocab_size"], "text_config": config}
        path.write_text(json.dumps(several))
        yield f"{form}, in text_config", loading.load(loading.find(folder)).model
