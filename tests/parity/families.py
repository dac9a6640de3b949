"""Tiny models of each family, as rows: what transformers builds and what mlx-lm has to be told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

VOCAB_SIZE = 101

Weights = dict[str, Any]
"""Arrays of MLX by name."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row.

    Attributes:
        model_type: The architecture, under its name in both libraries.
        config: Arguments of its transformers configuration.
        flat: What config.json says besides, because mlx-lm reads it there and transformers 5
            writes it inside `rope_parameters`.
        blocks: The path of the blocks in transformers.
        joins: The path, inside a block of either library, of the map that joins the heads.
        weights: The submodule whose weights the family's public checkpoints hold.
        checkpoint: From the weights that transformers writes to those that mlx-lm reads, where the
            public checkpoints are laid out in a third way.
        exact_gelu: Whether to give the reference the exact GELU, which its configuration cannot.
        differs: How mlx-lm itself differs from transformers here; empty if it does not.
        mended: The same, where mlux mends it at load.
    """

    model_type: str
    config: Mapping[str, Any]
    flat: Mapping[str, Any] = field(default_factory=dict)
    blocks: str = "model.layers"
    joins: str = "self_attn.o_proj"
    weights: str = ""
    checkpoint: Callable[[Weights], Weights] | None = None
    exact_gelu: bool = False
    differs: str = ""
    mended: str = ""


def rope(theta: float, **options: Any) -> dict[str, Any]:
    """Rotary settings in the form of transformers 5."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **options}}


def _experts_by_output(weights: Weights) -> Weights:
    """The experts of gpt_oss as [expert, output, input], as its 4-bit checkpoints do."""
    matrices = ("experts.gate_up_proj", "experts.down_proj")
    turned = {k: v.swapaxes(-1, -2) for k, v in weights.items() if k.endswith(matrices)}
    rest = {k: v for k, v in weights.items() if k not in turned}
    return rest | {f"{k}.weight": v for k, v in turned.items()}


_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_SIZES = _COMMON | {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_GEMMA = _SIZES | {"head_dim": 16, "query_pre_attn_scalar": 16}
_GEMMA3 = _GEMMA | {"num_hidden_layers": 7, "sliding_window": 4}
_WINDOWED = _SIZES | {"num_hidden_layers": 4, "sliding_window": 4}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_NEOX_CONFIG = _SIZES | {"intermediate_size": 128} | rope(1e4, partial_rotary_factor=0.25)
_NEOX = {
    "model_type": "gpt_neox",
    "flat": {"rotary_emb_base": 10_000, "rotary_pct": 0.25},
    "blocks": "gpt_neox.layers",
    "joins": "attention.dense",
}

FAMILIES: dict[str, Family] = {
    "llama": Family(model_type="llama", config=_SIZES | rope(5e5)),
    "llama, scaled rotary embedding": Family(
        model_type="llama",
        config=_SIZES | rope(5e5, **_LLAMA3_SCALING),
        flat={"rope_scaling": _LLAMA3_SCALING},
    ),
    "qwen2": Family(model_type="qwen2", config=_SIZES | rope(1e6)),
    "qwen3": Family(model_type="qwen3", config=_SIZES | {"head_dim": 16} | rope(1e6)),
    "gemma": Family(
        model_type="gemma",
        config=_GEMMA | {"num_key_value_heads": 1},
        differs="exact GELU instead of the tanh approximation",
    ),
    "gemma, exact GELU": Family(
        model_type="gemma", config=_GEMMA | {"num_key_value_heads": 1}, exact_gelu=True
    ),
    "gemma2": Family(model_type="gemma2", config=_GEMMA),
    "gemma2, beyond its window": Family(
        model_type="gemma2",
        config=_GEMMA | {"sliding_window": 4},
        differs="no sliding window",
    ),
    "gemma3_text": Family(
        model_type="gemma3_text",
        config=_GEMMA3,
        differs="scale of the embedding rounded to bfloat16",
    ),
    # √64 = 8 is a bfloat16 number.
    "gemma3_text, exact scale": Family(
        model_type="gemma3_text", config=_GEMMA3 | {"hidden_size": 64}
    ),
    "gpt2": Family(
        model_type="gpt2",
        config=_COMMON | {"n_positions": 64, "n_embd": 32, "n_head": 4, "n_layer": 3},
        flat={"n_ctx": 64},
        blocks="transformer.h",
        joins="attn.c_proj",
        weights="transformer",
    ),
    "gpt_neox": Family(
        config=_NEOX_CONFIG,
        differs="tanh approximation instead of the exact GELU",
        **_NEOX,
    ),
    "gpt_neox, tanh GELU": Family(config=_NEOX_CONFIG | {"hidden_act": "gelu_new"}, **_NEOX),
    "phi3": Family(model_type="phi3", config=_SIZES | {"sliding_window": None} | rope(1e4)),
    "mixtral": Family(model_type="mixtral", config=_SIZES | {"num_local_experts": 4} | rope(1e6)),
    "olmo2": Family(model_type="olmo2", config=_SIZES | rope(5e5)),
    "cohere": Family(model_type="cohere", config=_SIZES | rope(1e4)),
    "starcoder2": Family(
        model_type="starcoder2",
        config=_SIZES | {"sliding_window": None} | rope(1e5),
        differs="exact GELU instead of the tanh approximation",
    ),
    "starcoder2, exact GELU": Family(
        model_type="starcoder2",
        config=_SIZES | {"sliding_window": None, "hidden_act": "gelu"} | rope(1e5),
    ),
    "stablelm": Family(
        model_type="stablelm",
        config=_SIZES | {"use_qkv_bias": True} | rope(1e4, partial_rotary_factor=0.25),
        flat={"partial_rotary_factor": 0.25},
    ),
    "granite": Family(
        model_type="granite",
        config=_SIZES
        | {
            "logits_scaling": 4.0,
            "attention_multiplier": 0.2,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.22,
        }
        | rope(1e4),
    ),
    "deepseek_v3": Family(
        model_type="deepseek_v3",
        config=_SIZES
        | _ROUTED
        | {
            "num_key_value_heads": 4,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        }
        | rope(1e4),
    ),
    "mistral": Family(model_type="mistral", config=_SIZES | {"sliding_window": None} | rope(1e5)),
    "smollm3": Family(model_type="smollm3", config=_SIZES | rope(1e6)),
    "seed_oss": Family(model_type="seed_oss", config=_SIZES | {"head_dim": 16} | rope(1e7)),
    "ernie4_5": Family(model_type="ernie4_5", config=_SIZES | {"head_dim": 16} | rope(5e5)),
    "helium": Family(model_type="helium", config=_SIZES | {"head_dim": 8} | rope(1e5)),
    "hunyuan_v1_dense": Family(
        model_type="hunyuan_v1_dense", config=_SIZES | {"head_dim": 8} | rope(1e4)
    ),
    "nemotron": Family(
        model_type="nemotron",
        config=_SIZES | rope(1e4, partial_rotary_factor=0.5),
        flat={"partial_rotary_factor": 0.5},
    ),
    "phi": Family(
        model_type="phi",
        config=_SIZES
        | {"num_key_value_heads": 4, "intermediate_size": 128}
        | rope(1e4, partial_rotary_factor=0.5),
        flat={"partial_rotary_factor": 0.5},
        joins="self_attn.dense",
    ),
    "glm": Family(
        model_type="glm",
        config=_SIZES | {"head_dim": 16} | rope(1e4, partial_rotary_factor=0.5),
        flat={"partial_rotary_factor": 0.5},
        mended="rotary embedding on the whole head, not on a part",
    ),
    "glm, rotary on the whole head": Family(
        model_type="glm", config=_SIZES | {"head_dim": 16} | rope(1e4, partial_rotary_factor=1.0)
    ),
    "glm4": Family(
        model_type="glm4",
        config=_SIZES | {"head_dim": 16} | rope(1e4, partial_rotary_factor=0.5),
        flat={"partial_rotary_factor": 0.5},
    ),
    "olmo3": Family(model_type="olmo3", config=_WINDOWED, flat={"rope_theta": 5e5}),
    "cohere2": Family(model_type="cohere2", config=_WINDOWED | {"head_dim": 8} | rope(1e4)),
    "exaone4": Family(
        model_type="exaone4",
        config=_WINDOWED | {"sliding_window_pattern": 4} | rope(1e6),
        flat={"head_dim": 8, "rope_scaling": None, "sliding_window_pattern": "LLLG"},
    ),
    "gemma4_text": Family(
        model_type="gemma4_text",
        config=_GEMMA3
        | {"hidden_size": 64}
        | {"vocab_size_per_layer_input": VOCAB_SIZE, "hidden_size_per_layer_input": 16},
    ),
    "gpt_oss": Family(
        model_type="gpt_oss",
        config=_WINDOWED | _EXPERTS | {"head_dim": 16} | rope(1.5e5),
        checkpoint=_experts_by_output,
    ),
    "olmoe": Family(model_type="olmoe", config=_SIZES | _EXPERTS | rope(1e4)),
    "granitemoe": Family(model_type="granitemoe", config=_SIZES | _EXPERTS | rope(1e4)),
    "phimoe": Family(
        model_type="phimoe",
        config=_SIZES | _EXPERTS | {"attention_bias": True, "lm_head_bias": True} | rope(1e4),
    ),
    "qwen2_moe": Family(
        model_type="qwen2_moe",
        config=_SIZES
        | _EXPERTS
        | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}
        | rope(1e6),
    ),
    "qwen3_moe": Family(
        model_type="qwen3_moe",
        config=_SIZES
        | _EXPERTS
        | {"head_dim": 16, "moe_intermediate_size": 16, "norm_topk_prob": True}
        | {"decoder_sparse_step": 1, "mlp_only_layers": []}
        | rope(1e6),
        flat={"num_experts": 4},
    ),
    "dots1": Family(model_type="dots1", config=_SIZES | _ROUTED | {"head_dim": 8} | rope(1e4)),
    "glm4_moe": Family(
        model_type="glm4_moe",
        config=_SIZES
        | _ROUTED
        | {"head_dim": 8, "use_qk_norm": True}
        | rope(1e4, partial_rotary_factor=0.5),
        flat={"partial_rotary_factor": 0.5, "rope_scaling": None},
    ),
}
