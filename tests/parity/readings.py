"""One family read three times on the same weights: by transformers, by mlx-lm alone, by mlux.

A reading is a dict of arrays: `logits`, `resid.{i}` (`resid.0` before the first block, `resid.{i}`
after block i - 1), `pattern.{i}` [batch, n_heads, query, key] and `z.{i}` [batch, n_heads, seq,
d_head].
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import torch
from families import FAMILIES, VOCAB_SIZE, Family
from mlx_lm.utils import load_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from mlux.engine import HookedModel, sites

torch.set_num_threads(1)

Array = npt.NDArray[np.float32]
Reading = dict[str, Array]

TOKENS = [[3, 5, 7, 11, 13, 17, 19, 23, 29, 31], [4, 6, 8, 10, 12, 14, 16, 18, 20, 22]]


@dataclass(frozen=True, kw_only=True)
class Readings:
    """The same activations of the same weights."""

    transformers: Reading
    mlx_lm: Reading
    mlux: Reading


def difference(reading: Reading, reference: Reading, name: str) -> float:
    """The largest error in an array, in units of the largest entry of the reference."""
    found, expected = reading[name], reference[name]
    assert found.shape == expected.shape, f"{name}: {found.shape} instead of {expected.shape}"
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@cache
def read(name: str) -> Readings:
    """The three readings of a row of `FAMILIES`."""
    family = FAMILIES[name]
    model = random_model(family)
    with TemporaryDirectory() as folder:
        save(model, family, Path(folder))
        return Readings(
            transformers=_by_transformers(model, family),
            mlx_lm=_by_mlx_lm(Path(folder), family),
            mlux=_by_mlux(Path(folder)),
        )


def random_model(family: Family, spread: float = 0.3) -> Any:
    """A model of transformers with random weights of this standard deviation."""
    config = AutoConfig.for_model(family.model_type, **family.config)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    ).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Gains around 1 and the rest around 0, large enough that no part is negligible.
            gain = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(gain + spread * torch.randn(parameter.shape, generator=generator))
    if family.exact_gelu:
        for module in model.modules():
            if hasattr(module, "act_fn"):
                module.act_fn = torch.nn.GELU()
    return model


def save(model: Any, family: Family, folder: Path) -> None:
    """Writes the model's folder, with a tokenizer."""
    (model.get_submodule(family.weights) if family.weights else model).save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    theta = (config.get("rope_parameters") or {}).get("rope_theta")
    nested = {} if theta is None else {"rope_theta": theta}
    path.write_text(json.dumps(config | nested | dict(family.flat)))
    if family.checkpoint:
        file = str(folder / "model.safetensors")
        mx.save_safetensors(file, family.checkpoint(mx.load(file)), metadata={"format": "mlx"})
    words = WordLevel({f"w{i}": i for i in range(VOCAB_SIZE)}, unk_token="w0")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), bos_token="w0", eos_token="w1"
    )
    tokenizer.save_pretrained(folder)


def _by_transformers(model: Any, family: Family) -> Reading:
    blocks = model.get_submodule(family.blocks)
    reading: Reading = {}

    def keep_z(layer: int) -> Any:
        def hook(module: Any, args: tuple[torch.Tensor]) -> None:
            reading[f"z.{layer}"] = args[0].numpy()

        return hook

    def keep_last(module: Any, args: Any, output: Any) -> None:
        array = output[0] if isinstance(output, tuple) else output
        reading[f"resid.{len(blocks)}"] = array.numpy()

    for layer, block in enumerate(blocks):
        block.get_submodule(family.joins).register_forward_pre_hook(keep_z(layer))
    # The last of `hidden_states` is past the final norm, so the block itself is read instead.
    blocks[-1].register_forward_hook(keep_last)
    with torch.no_grad():
        output = model(
            torch.tensor(TOKENS), output_hidden_states=True, output_attentions=True, use_cache=False
        )
    reading["logits"] = output.logits.numpy()
    for layer, (resid, pattern) in enumerate(
        zip(output.hidden_states[:-1], output.attentions, strict=True)
    ):
        reading[f"resid.{layer}"] = resid.numpy()
        reading[f"pattern.{layer}"] = pattern.numpy()
        reading[f"z.{layer}"] = _split_heads(reading[f"z.{layer}"], pattern.shape[1])
    return reading


def _by_mlux(folder: Path) -> Reading:
    model = HookedModel.from_pretrained(folder)
    names = {"resid.0": sites.resid_pre(0)}
    for layer in range(len(model.layers)):
        names[f"resid.{layer + 1}"] = sites.resid_post(layer)
        names[f"pattern.{layer}"] = sites.tap(layer, "pattern")
        names[f"z.{layer}"] = sites.tap(layer, "z")
    logits, kept = model.run_with_cache(mx.array(TOKENS), hooks=names.values())
    return {"logits": np.array(logits)} | {n: np.array(kept[path]) for n, path in names.items()}


class _Spy:
    """Stands for a module of mlx-lm and keeps what it was given and what it returned."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> Any:
        self.given = x[...]
        output = self._module(x, *args, **kwargs)
        self.returned = (output[0] if isinstance(output, tuple) else output)[...]
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _by_mlx_lm(folder: Path, family: Family) -> Reading:
    """The bare model, without a line of mlux: spies in place of its modules."""
    model, _ = load_model(folder)
    parent, _, child = family.joins.rpartition(".")
    stack = _stack_of_blocks(model)
    joins = [_Spy(block[parent][child]) for block in stack]
    for block, spy in zip(stack, joins, strict=True):
        setattr(block[parent], child, spy)
    blocks = stack[:] = [_Spy(block) for block in stack]
    patterns: list[Array] = []
    fused, softmax = mx.fast.scaled_dot_product_attention, mx.softmax

    def spied_attention(q: mx.array, k: mx.array, v: mx.array, **options: Any) -> mx.array:
        patterns.append(_pattern_by_hand(q, k, **options))
        return fused(q, k, v, **options)

    def spied_softmax(scores: mx.array, **options: Any) -> mx.array:
        weights = softmax(scores, **options)
        patterns.append(np.array(weights).reshape(len(TOKENS), -1, *weights.shape[-2:]))
        return weights

    mx.fast.scaled_dot_product_attention = spied_attention
    if family.model_type == "gemma2":  # it has a softmax of its own, and nothing else uses one
        mx.softmax = spied_softmax
    try:
        logits = model(mx.array(TOKENS))
    finally:
        mx.fast.scaled_dot_product_attention, mx.softmax = fused, softmax
    reading = {"logits": np.array(logits), "resid.0": np.array(blocks[0].given)}
    for layer, (block, join, pattern) in enumerate(zip(blocks, joins, patterns, strict=True)):
        reading[f"resid.{layer + 1}"] = np.array(block.returned)
        reading[f"pattern.{layer}"] = pattern
        reading[f"z.{layer}"] = _split_heads(np.array(join.given), pattern.shape[1])
    return reading


def _stack_of_blocks(model: Any) -> list[Any]:
    """The list that the model goes through; `model.layers` may be a copy of it."""
    lists = (child for m in model.modules() for child in m.values() if isinstance(child, list))
    return next(found for found in lists if found[0] is model.layers[0])


def _pattern_by_hand(
    q: mx.array, k: mx.array, scale: float, mask: Any, sinks: mx.array | None = None
) -> Array:
    """Softmax attention in float64; a mask is "causal", boolean (true: may attend) or added."""
    queries, keys = np.array(q, np.float64), np.array(k, np.float64)
    keys = np.repeat(keys, queries.shape[1] // keys.shape[1], axis=1)
    scores = scale * queries @ keys.swapaxes(-1, -2)
    if isinstance(mask, mx.array) and mask.dtype != mx.bool_:
        scores = scores + np.array(mask)
    else:
        allowed = np.tri(scores.shape[-1], dtype=bool) if isinstance(mask, str) else np.array(mask)
        scores = np.where(allowed, scores, -np.inf)
    weights = np.exp(scores)
    total = weights.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(np.array(sinks, np.float64))[None, :, None, None]
    return (weights / total).astype(np.float32)


def _split_heads(joined: Array, n_heads: int) -> Array:
    """[batch, seq, n_heads × d_head] → [batch, n_heads, seq, d_head]."""
    return joined.reshape(*joined.shape[:2], n_heads, -1).transpose(0, 2, 1, 3)
