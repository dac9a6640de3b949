"""Settings of config.json that bear on the mathematics and that the built model does not read.

Whether a key is read is seen in the source of the built modules: its name has to appear as an
attribute or as text, and not only as a field that is declared. The source shows what the building
and every later forward pass can read, without running either, and a field that a model file
accepts and then forgets is found, too, which a look at the accepted fields would miss. A name that
only happens to occur is taken as read: the list can miss a key.
"""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from mlx.nn.layers.base import Module

from mlux.engine import rotary
from mlux.engine.rope_settings import PROVED, settings, text_part

_WORDS = frozenset(
    {
        "rope",
        "rotary",
        "theta",
        "scaling",
        "scale",
        "scales",
        "multiplier",
        "window",
        "softcap",
        "softcapping",
        "cap",
        "norm",
        "eps",
        "epsilon",
        "alibi",
        "bias",
        "factor",
        "mscale",
        "sinks",
        "act",
        "activation",
        "beta",
        "temperature",
        "types",
    }
)
"""A key with one of these words bears on the mathematics."""

_TRAINING = frozenset(
    {"dropout", "initializer", "init", "quantization", "tie", "token", "tokens", "model", "loss"}
)
"""A key with one of these does not: it is for training, or it is read elsewhere."""

_ROPE = frozenset(
    {
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "rope_local_base_freq",
        "rotary_emb_base",
        "rotary_pct",
        "partial_rotary_factor",
        "original_max_position_embeddings",
    }
)
"""What `engine/rotary.py` reads, and measures on the built modules."""

_ALWAYS = {"scale_attn_weights": True}
"""What every model file computes without asking."""

_ACTIVATIONS = {
    "silu": {"silu", "swiglu", "SiLU"},
    "swish": {"silu", "swiglu", "SiLU"},
    "gelu": {"gelu"},
    "gelu_new": {"gelu_approx"},
    "gelu_fast": {"gelu_approx"},
    "gelu_pytorch_tanh": {"gelu_approx"},
    "relu": {"relu"},
    "relu2": {"relu2", "relu_squared"},
}
"""What a model file calls where it computes an activation without reading which."""


def unread(model: Module, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that are stated and not read, as `name = value`.

    Args:
        model: The mlx-lm model.
        config: The content of config.json.
    """
    names = _names_in_source(model)
    text = text_part(config)
    found = [f"{key} = {value}"[:60] for key, value in _stated(text, names)]
    if text.get("model_type") not in PROVED:
        found += _rotary(model, config, names)
    return tuple(found)


def _rotary(model: Module, config: Mapping[str, Any], names: frozenset[str]) -> Iterator[str]:
    """The rotary settings of an architecture that is not mended."""
    kinds = {told["rope_type"] for told in settings(config).values()} - {"default"}
    if any((rotary.error(place) or 0.0) > 1 for place in rotary.places(model, config)):
        yield "rotary embeddings turn otherwise than config.json says"
    elif kinds and not {"rope_scaling", "rope_parameters"} & names:
        yield f"rope_type = {', '.join(sorted(kinds))}"


def _stated(text: Mapping[str, Any], names: frozenset[str]) -> Iterator[tuple[str, Any]]:
    for key, value in text.items():
        words = set(key.split("_"))
        if not words & _WORDS or words & _TRAINING or key in names or key in _ROPE:
            continue
        if (
            value in (None, False)
            or _ALWAYS.get(key) == value
            or isinstance(value, dict)
            or _computes(value, names)
        ):
            continue
        if "window" in words and _never_reached(text, value):
            continue
        if key == "layer_types" and (len(set(value)) == 1 or "sliding_window_pattern" in names):
            continue
        yield key, value


def _computes(value: Any, names: frozenset[str]) -> bool:
    return isinstance(value, str) and bool(_ACTIVATIONS.get(value, set()) & names)


def _never_reached(text: Mapping[str, Any], window: Any) -> bool:
    """Whether a window is switched off, or as wide as the context."""
    longest = text.get("max_position_embeddings")
    wide = isinstance(window, int) and isinstance(longest, int) and window >= longest
    off = text.get("use_sliding_window") is False
    return off or wide


def _names_in_source(model: Module) -> frozenset[str]:
    named: list[tuple[str, Module]] = model.named_modules()  # type: ignore[no-untyped-call] # MLX's
    files = {type(module).__module__ for _, module in named} - {"mlux.engine.rotary"}
    return frozenset[str]().union(*map(_names, sorted(files)))


@cache
def _names(module: str) -> frozenset[str]:
    """Attributes and texts in a file, and what it imports by name and calls."""
    if not module.startswith("mlx_lm."):
        return frozenset()
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)
              and isinstance(node.ctx, ast.Load)}  # fmt: skip
    found |= {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return frozenset(found)
