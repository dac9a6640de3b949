"""What a configuration says of rotary embeddings, whatever its form, and how mlx-lm is told.

transformers 4 writes the settings flat (`rope_theta`, `rope_scaling`), transformers 5 nested in
`rope_parameters`, perhaps with a set for each kind of layer, and a model with several parts has
either inside `text_config`. A model file of mlx-lm reads one or two of these forms and some of the
types; the rest is lost without a word. So the settings are read here once and handed to mlx-lm
where it looks for them; `engine/rotary.py` then tries what was built.
"""

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]
"""What one kind of layer is told: `rope_type`, `rope_theta`, and the options of the type."""

ALIKE = ""
"""The name of the settings where all layers have the same."""

PROVED = frozenset({
    "cohere", "cohere2", "dots1", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text", "glm",
    "glm4", "glm4_moe", "gpt_neox", "gpt_oss", "granite", "granitemoe", "helium", "llama",
    "mistral", "mixtral", "nemotron", "olmo2", "olmo3", "olmoe", "phi", "phi3", "qwen2",
    "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2",
})  # fmt: skip
"""Architectures that `make parity` proves for every form and type, so that they are mended."""

_SCALED_FULL_ATTENTION = frozenset({"gemma3_text", "olmo3"})
"""Where a flat `rope_scaling` is for the layers of full attention alone."""

_OLD_NAMES = {"su": "longrope", "mrope": "default"}


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the language model."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def settings(config: Mapping[str, Any]) -> dict[str, Settings]:
    """What a configuration says of rotary embeddings, whatever its form.

    Args:
        config: The content of config.json.

    Returns:
        Kind of layer → its settings, under the names of transformers 5; all layers alike are
        `ALIKE`. Empty if it says nothing. `rope_theta` is missing where it is not stated.
    """
    text = text_part(config)
    nested = text.get("rope_parameters") or {}
    scaling = text.get("rope_scaling") or {}
    sets = {kind: dict(found) for kind, found in nested.items() if isinstance(found, dict)}
    flat = {
        name: text[key]
        for name, key in (
            ("rope_theta", "rope_theta"),
            ("rope_theta", "rotary_emb_base"),
            ("partial_rotary_factor", "partial_rotary_factor"),
            ("partial_rotary_factor", "rotary_pct"),
        )
        if text.get(key) is not None
    }
    if sets:
        return {kind: _standard(flat | found, text) for kind, found in sets.items()}
    if text.get("model_type") in _SCALED_FULL_ATTENTION and (flat or scaling or nested):
        local = text.get("rope_local_base_freq")
        sliding = flat if local is None else flat | {"rope_theta": local}
        return {
            "full_attention": _standard(flat | nested | scaling, text),
            "sliding_attention": _standard(sliding, text),
        }
    together = flat | nested | scaling
    return {ALIKE: _standard(together, text)} if together else {}


def _standard(found: Settings, text: Mapping[str, Any]) -> Settings:
    """One set under today's names, with the original context where its type needs it."""
    kind = found.get("rope_type") or found.get("type") or "default"
    kind = _OLD_NAMES.get(kind, kind)
    if kind == "yarn" and text.get("model_type") == "phi3":
        kind = "longrope"  # what its first checkpoints call it
    standard = {k: v for k, v in found.items() if k != "type" and v is not None}
    standard["rope_type"] = kind
    longest = text.get("max_position_embeddings")
    if kind in ("llama3", "yarn", "longrope"):
        original = text.get("original_max_position_embeddings")
        original = original or found.get("original_max_position_embeddings") or longest
        standard["original_max_position_embeddings"] = original
    standard["max_position_embeddings"] = longest
    return standard


def for_mlx_lm(config: Mapping[str, Any]) -> dict[str, Any]:
    """What to tell mlx-lm besides config.json: the same settings where its models look for them.

    Architectures of `PROVED` are built without scaling, since their model files refuse types that
    they do not know; `rotary.mend` puts it in. Of the others, only what is missing is filled in.

    Args:
        config: The content of config.json.

    Returns:
        Keys to set in it; `text_config` is given whole.
    """
    found = settings(config)
    text = text_part(config)
    told = _kinds_of_layers(text)
    if found:
        whole = found.get(ALIKE) or found.get("full_attention") or next(iter(found.values()))
        proved = text.get("model_type") in PROVED
        neox = text.get("model_type") == "gpt_neox"
        flat = {
            "rotary_emb_base" if neox else "rope_theta": whole.get("rope_theta"),
            "rotary_pct" if neox else "partial_rotary_factor": whole.get("partial_rotary_factor"),
            "original_max_position_embeddings": whole.get("original_max_position_embeddings"),
            "rope_local_base_freq": found.get("sliding_attention", {}).get("rope_theta"),
        }
        told |= {
            key: value
            for key, value in flat.items()
            if value is not None and (proved or text.get(key) is None)
        }
        if proved or text.get("rope_scaling") is None:
            told["rope_scaling"] = None if proved else _scaling(whole)
    told = {key: value for key, value in told.items() if key not in text or text[key] != value}
    if not told or text is config:
        return told
    return {"text_config": {**text, **told}}


def _scaling(whole: Settings) -> dict[str, Any] | None:
    """The settings as the `rope_scaling` of transformers 4, under both names of the type."""
    if whole["rope_type"] == "default":
        return None
    return {"type": whole["rope_type"], **{k: v for k, v in whole.items() if k != "rope_theta"}}


def _kinds_of_layers(text: Mapping[str, Any]) -> dict[str, Any]:
    """`layer_types` as the pattern that these model files read in its place."""
    kinds = text.get("layer_types")
    if not kinds or text.get("model_type") not in ("cohere2", "exaone4", "gemma3_text"):
        return {}
    full = [kind == "full_attention" for kind in kinds]
    if text["model_type"] == "exaone4":
        letters = "".join("G" if is_full else "L" for is_full in full)
        return {"sliding_window_pattern": None if all(full) else letters}
    every = full.index(True) + 1 if any(full) else len(full) + 1
    if full == [(layer + 1) % every == 0 for layer in range(len(full))]:
        return {"sliding_window_pattern": every}
    return {}
