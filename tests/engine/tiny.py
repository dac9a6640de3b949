"""Tiny random models of several families, built from each architecture's own configuration."""

import importlib
from functools import cache
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from mlux.engine import HookedModel

_LLAMA_LIKE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 101,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE | {"head_dim": 16, "rope_theta": 1e4, "tie_word_embeddings": True},
    "gemma": _LLAMA_LIKE | {"head_dim": 16, "num_key_value_heads": 1},
    "gemma2": _LLAMA_LIKE | {"head_dim": 16, "query_pre_attn_scalar": 16},
    "gemma3_text": _LLAMA_LIKE | {"head_dim": 16, "num_hidden_layers": 7, "sliding_window": 4},
    "gpt2": {
        "n_ctx": 64,
        "n_positions": 64,
        "n_embd": 32,
        "n_head": 4,
        "n_layer": 3,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": 101,
    },
    "gpt_neox": {
        "max_position_embeddings": 64,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "layer_norm_eps": 1e-5,
        "vocab_size": 101,
        "rotary_emb_base": 10_000,
        "rotary_pct": 0.25,
    },
    "mixtral": _LLAMA_LIKE | {"num_local_experts": 4},
    "olmo2": _LLAMA_LIKE,
    "cohere": _LLAMA_LIKE,
    "phi3": _LLAMA_LIKE,
    "granite": _LLAMA_LIKE
    | {
        "logits_scaling": 4.0,
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.22,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": 1e4,
    },
    "deepseek_v3": _LLAMA_LIKE
    | {
        "moe_intermediate_size": 16,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
}


@cache
def tiny(name: str) -> HookedModel:
    """A model of this family with the same random weights every time."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    config = CONFIGS[name] | {"model_type": name}
    model = module.Model(module.ModelArgs.from_dict(config))
    mx.random.seed(1)

    def random(parameter: mx.array) -> mx.array:
        # Gains around 1 and everything else around 0, large enough that no part is negligible.
        gain = 1.0 if parameter.ndim == 1 else 0.0
        return gain + 0.3 * mx.random.normal(parameter.shape)

    model.update(tree_map(random, model.parameters()))
    model.eval()
    mx.eval(model.parameters())
    return HookedModel(model, None, config=config)


TOKENS = mx.array([[3, 5, 7, 11, 13, 17, 19, 23], [2, 4, 6, 8, 10, 12, 14, 16]])
