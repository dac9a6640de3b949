"""A tiny random model of every architecture of mlx-lm, built from its file's own configuration.

`STANDARD` says the sizes under the names that most files use; each row of `CONFIGS` adds what its
file needs for every kind of block that it has. A file takes what it knows and ignores the rest.
"""

import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.models
from mlx.utils import tree_map_with_path

from mlux.engine import HookedModel

STANDARD: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 101,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "norm_eps": 1e-5,
    "rope_theta": 1e4,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "use_bias": False,
    "use_qk_norm": True,
    "partial_rotary_factor": 0.5,
    "sliding_window": 4,
    "norm_topk_prob": True,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "num_shared_experts": 1,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.5,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [0],
}
MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
INDEXER = {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 4}
SLIDING, FULL, LINEAR = "sliding_attention", "full_attention", "linear_attention"
GRANITE = {
    "logits_scaling": 4.0,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.22,
}
DELTA_NET = {
    "num_hidden_layers": 4,
    "full_attention_interval": 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
LFM2 = {
    "num_hidden_layers": 4,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 32,
    "block_multiple_of": 8,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
    "layer_types": ["conv", FULL, "conv", FULL],
}
KDA = {"short_conv_kernel_size": 4, "head_dim": 8, "num_heads": 4}
ROPE = {"rope_type": "default", "rope_theta": 1e4}
MISTRAL3_ROPE = ROPE | {
    "llama_4_scaling_beta": 0.1,
    "original_max_position_embeddings": 4,
}


def text(**config: Any) -> dict[str, Any]:
    """The configuration of a language model inside a vision model."""
    return {"text_config": STANDARD | {"model_type": ""} | config}


CONFIGS: dict[str, dict[str, Any]] = {
    "Klear": {"attention_bias": True},
    "afm7": {
        "hidden_dim": 32,
        "num_layers": 4,
        "num_kv_reuse_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
    },
    "afmoe": {"layer_types": [SLIDING, FULL, SLIDING], "num_dense_layers": 1},
    "apertus": {"post_norm": False, "qk_norm": True},
    "baichuan_m1": {
        "sliding_window_layers": [1],
        "conv_window": 2,
        "num_swa_attention_heads": 4,
        "num_swa_key_value_heads": 2,
    },
    "bailing_hybrid": MLA
    | {"num_hidden_layers": 4, "layer_group_size": 2, "group_norm_size": 2, "head_dim": 8},
    "bailing_moe": {"num_hidden_layers": 3},
    "bailing_moe_linear": {"num_hidden_layers": 4, "layer_group_size": 2, "group_norm_size": 2},
    "bailing_moe_v3": MLA
    | {
        "num_hidden_layers": 4,
        "layer_group_size": 2,
        "head_dim": 8,
        "moe_shared_expert_intermediate_size": 16,
    },
    "cohere": {"use_qk_norm": True, "logit_scale": 0.5},
    "cohere2": {
        "head_dim": 8,
        "num_hidden_layers": 4,
        "sliding_window_pattern": 2,
        "logit_scale": 0.5,
    },
    "dbrx": {
        "d_model": 32,
        "n_layers": 3,
        "n_heads": 4,
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
    },
    "deepseek": {"num_key_value_heads": 4},
    "deepseek_v2": MLA
    | {"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}},
    "deepseek_v3": MLA,
    "deepseek_v32": MLA | INDEXER,
    "deepseek_v41": INDEXER
    | {
        "num_hidden_layers": 4,
        "qk_rope_head_dim": 8,
        "q_lora_rank": 16,
        "o_groups": 2,
        "o_lora_rank": 8,
        "hc_mult": 2,
        "compress_ratios": [0, 2, 4, 0],
        "kv_source_layer_ids": [0, 1, 2, 3],
        "index_source_layer_ids": [0, 1, 2, 3],
    },
    "dots1": {"scoring_func": "sigmoid"},
    "ernie4_5": {},
    "ernie4_5_moe": {
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
    },
    "exaone": {"num_layers": 3, "head_dim": 8},
    "exaone4": {"num_hidden_layers": 4, "sliding_window_pattern": "LG"},
    "exaone_moe": {
        "layer_types": [SLIDING, FULL, SLIDING],
        "is_moe_layer": [False, True, True],
    },
    "falcon_h1": {
        "mamba_d_ssm": 32,
        "mamba_d_head": 8,
        "mamba_n_heads": 4,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 4,
    },
    "gear": {
        "attn_logit_softcapping": 30.0,
        "num_hidden_layers": 4,
        "layer_types": [SLIDING, "conv_mixer", FULL, "conv_mixer"],
    },
    "gemma": {"num_key_value_heads": 1},
    "gemma2": {"query_pre_attn_scalar": 16},
    "gemma3": text(num_hidden_layers=7) | {"vocab_size": 101},
    "gemma3_text": {"num_hidden_layers": 7},
    "gemma3n": text(
        num_hidden_layers=4,
        num_kv_shared_layers=2,
        vocab_size_per_layer_input=101,
        rope_local_base_freq=1e4,
        final_logit_softcapping=30.0,
        layer_types=[SLIDING, FULL, SLIDING, FULL],
        activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0],
        hidden_size_per_layer_input=8,
        altup_num_inputs=4,
        altup_coef_clip=120.0,
        altup_correct_scale=True,
        altup_active_idx=0,
        laurel_rank=8,
    ),
    "gemma4": text(
        num_hidden_layers=4,
        global_head_dim=16,
        vocab_size_per_layer_input=101,
        hidden_size_per_layer_input=8,
        num_kv_shared_layers=2,
        sliding_window_pattern=2,
    )
    | {"vocab_size": 101},
    "gemma4_text": {
        "num_hidden_layers": 4,
        "global_head_dim": 16,
        "vocab_size_per_layer_input": 101,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 2,
        "sliding_window_pattern": 2,
        "enable_moe_block": True,
        "top_k_experts": 2,
    },
    "glm": {},
    "glm4": {},
    "glm4_moe": {},
    "glm4_moe_lite": MLA,
    "glm_moe_dsa": MLA
    | INDEXER
    | {
        "rope_parameters": ROPE,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "moe_layer_freq": 1,
    },
    "gpt2": {"n_ctx": 64, "n_positions": 64, "n_embd": 32, "n_head": 4, "n_layer": 3},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 3, "n_inner": 48, "n_head": 4, "n_positions": 64},
    "gpt_neox": {"rotary_emb_base": 10_000, "rotary_pct": 0.25},
    "gpt_oss": {"num_hidden_layers": 4},
    "gptj": {"n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64, "rotary_dim": 4},
    "granite": GRANITE,
    "granitemoe": GRANITE,
    "granitemoehybrid": GRANITE
    | {
        "layer_types": ["mamba", "attention", "mamba"],
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_proj_bias": False,
        "mamba_d_state": 8,
        "mamba_d_conv": 4,
        "mamba_n_groups": 1,
        "mamba_conv_bias": True,
    },
    "helium": {},
    "hunyuan": {
        "num_hidden_layers": 4,
        "moe_topk": 2,
        "num_shared_expert": 1,
        "use_mixed_mlp_moe": True,
        "use_cla": True,
        "cla_share_factor": 2,
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0},
    },
    "hunyuan_v1_dense": {
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0},
    },
    "internlm2": {},
    "internlm3": {},
    "iquestloopcoder": {"loop_num": 2, "loop_window_size": 4},
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "mamba_d_conv": 4,
        "mamba_d_state": 8,
        "mamba_expand": 2,
    },
    "kimi_k25": text(**MLA),
    "kimi_k3": text(
        **MLA,
        num_hidden_layers=4,
        linear_attn_config=KDA
        | {"kda_layers": [1, 3], "full_attn_layers": [2, 4], "gate_lower_bound": -5.0},
        activation_situ_beta=4.0,
        activation_situ_linear_beta=4.0,
        attn_res_block_size=2,
        num_experts_per_token=2,
        routed_expert_hidden_size=16,
    ),
    "kimi_linear": MLA
    | {
        "num_hidden_layers": 4,
        "linear_attn_config": KDA | {"kda_layers": [1, 3], "full_attn_layers": [2, 4]},
        "model_max_length": 64,
        "num_experts_per_token": 2,
    },
    "kimi_vl": text(**MLA),
    "laguna": {
        "layer_types": [FULL, SLIDING, FULL],
        "num_attention_heads_per_layer": [4, 2, 4],
        "rope_parameters": {FULL: ROPE, SLIDING: ROPE},
    },
    "lfm2": LFM2,
    "lfm2-vl": text(**LFM2),
    "lfm2_moe": LFM2 | {"use_expert_bias": True, "num_dense_layers": 1},
    "lille-130m": {
        "block_size": 64,
        "n_embd": 64,
        "n_head": 4,
        "n_kv_heads": 2,
        "n_layer": 3,
    },
    "llama": {"layer_types": [FULL, SLIDING, FULL]},
    "llama4": text(
        num_hidden_layers=4,
        attention_chunk_size=4,
        interleave_moe_layer_step=2,
        intermediate_size_mlp=48,
        num_experts_per_tok=1,
    ),
    "llama4_text": {"intermediate_size_mlp": 48, "no_rope_layers": [1, 0, 1]},
    "longcat_flash": MLA
    | {
        "num_layers": 2,
        "attention_method": "MLA",
        "zero_expert_type": "identity",
        "ffn_hidden_size": 48,
        "moe_topk": 2,
        "expert_ffn_hidden_size": 16,
        "zero_expert_num": 2,
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
    },
    "longcat_flash_ngram": MLA
    | {
        "num_layers": 2,
        "ffn_hidden_size": 48,
        "moe_topk": 2,
        "expert_ffn_hidden_size": 16,
        "zero_expert_num": 2,
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
        "ngram_vocab_size_ratio": 3,
        "emb_neighbor_num": 3,
        "emb_split_num": 2,
    },
    "mamba": {
        "state_size": 8,
        "conv_kernel": 4,
        "use_conv_bias": True,
        "time_step_rank": 4,
    },
    "mamba2": {
        "num_heads": 4,
        "intermediate_size": 64,
        "state_size": 8,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_conv_bias": True,
        "time_step_limit": (0.0, 100.0),
        "time_step_rank": 4,
    },
    "mellum": {
        "layer_types": [SLIDING, FULL, SLIDING],
        "rope_parameters": {FULL: ROPE, SLIDING: ROPE},
    },
    "mimo": {},
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1, 0],
        "moe_layer_freq": [0, 1, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "sliding_window_size": 4,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "layernorm_epsilon": 1e-5,
        "swa_rope_theta": 1e4,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "v_head_dim": 8,
        "swa_head_dim": 16,
        "swa_v_head_dim": 8,
    },
    "minicpm": {"dim_model_base": 16, "scale_depth": 1.4, "scale_emb": 3.0},
    "minicpm3": MLA
    | {
        "dim_model_base": 16,
        "scale_depth": 1.4,
        "scale_emb": 3.0,
        "rope_scaling": {
            "original_max_position_embeddings": 64,
            "short_factor": [1.0, 1.0, 1.0, 1.0],
            "long_factor": [1.0, 1.0, 1.0, 1.0],
        },
    },
    "minimax": {"rotary_dim": 8},
    "minimax_m3_vl": text(
        dense_intermediate_size=48,
        num_hidden_layers=3,
        moe_layer_freq=[0, 1, 1],
        layer_types=[FULL, "minimax_m3_sparse", "minimax_m3_sparse"],
        index_n_heads=2,
        index_head_dim=16,
        index_block_size=2,
        index_topk_blocks=2,
    ),
    "ministral3": {"layer_types": [FULL, SLIDING, FULL], "rope_parameters": MISTRAL3_ROPE},
    "mistral3": text(model_type="ministral3", rope_parameters=MISTRAL3_ROPE),
    "mistral4": MLA | {"rope_parameters": MISTRAL3_ROPE, "head_dim": 16},
    "mixtral": {},
    "muse_glimmer": {"num_hidden_layers": 4},
    "nanbeige": {"num_loops": 1},
    "nanochat": {},
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {
        "block_configs": [
            {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 1.0}},
            {"attention": {"no_op": True}, "ffn": {"ffn_mult": 1.0}},
            {"attention": {"replace_with_linear": True}, "ffn": {"replace_with_linear": True}},
            {"attention": {"n_heads_in_group": 2}, "ffn": {"no_op": True}},
        ],
        "num_hidden_layers": 4,
    },
    "nemotron_h": {
        "hybrid_override_pattern": ["M", "*", "-", "M", "E"],
        "num_hidden_layers": 5,
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "mamba_proj_bias": False,
        "ssm_state_size": 8,
        "conv_kernel": 4,
        "n_groups": 1,
        "use_conv_bias": True,
        "moe_shared_expert_intermediate_size": 16,
    },
    "olmo2": {},
    "olmo3": {"num_hidden_layers": 4, "layer_types": [SLIDING, FULL, SLIDING, FULL]},
    "olmo_hybrid": DELTA_NET
    | {
        "linear_allow_neg_eigval": True,
        "layer_types": [LINEAR, FULL, LINEAR, FULL],
    },
    "olmoe": {},
    "openelm": {
        "num_transformer_layers": 3,
        "model_dim": 32,
        "ffn_dim_divisor": 8,
        "num_query_heads": [4, 2, 4],
        "num_kv_heads": [2, 1, 2],
        "ffn_multipliers": [1.0, 1.5, 2.0],
    },
    "phi": {},
    "phi3": {},
    "phi3small": {
        # Its head writes to fixed token ids near the end of its true vocabulary.
        "vocab_size": 100_352,
        "dense_attention_every_n_layers": 2,
        "ff_intermediate_size": 48,
        "gegelu_limit": 20.0,
        "num_hidden_layers": 4,
        "blocksparse_block_size": 32,
        "blocksparse_num_local_blocks": 1,
        "blocksparse_vert_stride": 2,
    },
    "phimoe": {
        "rope_scaling": {
            "type": "longrope",
            "long_factor": [1.0, 1.0, 1.0, 1.0],
            "short_factor": [1.0, 1.0, 1.0, 1.0],
            "long_mscale": 1.2,
            "short_mscale": 1.2,
        },
        "original_max_position_embeddings": 64,
    },
    "phixtral": {
        "num_vocab": 101,
        "model_dim": 32,
        "num_heads": 4,
        "num_layers": 3,
        "rotary_dim": 4,
    },
    "pixtral": text(),
    "plamo": {"n_shared_head": 2},
    "plamo2": {
        "num_hidden_layers": 4,
        "hidden_size_per_head": 8,
        "attention_window_size": 4,
        "mamba_d_state": 8,
        "mamba_num_heads": 4,
        "mamba_step": 2,
        "mamba_chunk_size": 4,
    },
    "plamo3": {"num_hidden_layers": 4, "sliding_window_pattern": 2, "window_size": 4},
    "prism_hadamard_qwen35": text(
        **DELTA_NET | {"hidden_size": 128, "num_experts": 0, "rope_parameters": None}
    )
    | {
        "tensor_namespace": "mlx-vlm-qwen3_5",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "modules": [
            {
                "path": "model.layers.1.self_attn.q_proj",
                "embedding": False,
                "dtype": "float16",
                "block": 0,
            }
        ],
    },
    "qwen": {"kv_channels": 8},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen2_vl": text(model_type="qwen2"),
    "qwen3": {},
    "qwen3_5": text(**DELTA_NET, rope_parameters=None) | {},
    "qwen3_5_moe": text(**DELTA_NET, rope_parameters=None),
    "qwen3_moe": {},
    "qwen3_next": DELTA_NET,
    "qwen3_vl": text(model_type="qwen3"),
    "qwen3_vl_moe": text(model_type="qwen3_moe"),
    "recurrent_gemma": {
        "conv1d_width": 4,
        "logits_soft_cap": 30.0,
        "num_key_value_heads": 1,
        "attention_window_size": 4,
        "block_types": ["recurrent", "attention", "recurrent"],
    },
    "rwkv7": {
        "a_low_rank_dim": 8,
        "v_low_rank_dim": 8,
        "gate_low_rank_dim": 8,
        "decay_low_rank_dim": 8,
    },
    "seed_oss": {},
    "smollm3": {"no_rope_layer_interval": 2},
    "spark2_5": {
        "num_hidden_layers": 4,
        "rope_parameters": {SLIDING: ROPE, FULL: ROPE},
    },
    "stablelm": {"use_qkv_bias": True, "num_key_value_heads": 4},
    "starcoder2": {},
    "step3p5": {
        "num_hidden_layers": 4,
        "num_attention_groups": 2,
        "layer_types": [FULL, SLIDING, FULL, SLIDING],
        "moe_num_experts": 4,
        "moe_top_k": 2,
        "share_expert_dim": 16,
        "moe_layers_enum": "1,2,3",
        "attention_other_setting": {
            "num_attention_heads": 4,
            "num_attention_groups": 2,
            "head_dim": 16,
        },
    },
    "talkie": {},
    "telechat3": {},
    "youtu_llm": MLA,
}

NOT_RUNNABLE: dict[str, str] = {
    "bitnet": "its linear layers are a Metal kernel with no other implementation",
    "muse_spark": "its q and k go through a Metal kernel with no other implementation",
    "olmo": "its attention adds the mask 'causal' to the scores as if it were an array",
}
"""Files that cannot be built or run here, with the reason that lies in the file itself."""


def model_files() -> list[str]:
    """Every file of mlx-lm that defines a model, read without running it."""
    folder = Path(mlx_lm.models.__path__[0])
    files = sorted(folder.glob("*.py"))
    return [f.stem for f in files if re.search(r"^class Model\b", f.read_text(), re.MULTILINE)]


@cache
def build(name: str) -> HookedModel:
    """The model of a file, with the same random weights every time."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    row = CONFIGS[name]
    config = (row if "text_config" in row else STANDARD | row) | {"model_type": name}
    model = module.Model(module.ModelArgs.from_dict(config))
    mx.random.seed(1)
    model.update(tree_map_with_path(_random, model.parameters()))
    model.eval()
    mx.eval(model.parameters())
    return HookedModel(model, None, config=config)


def _random(path: str, parameter: mx.array) -> mx.array:
    if not mx.issubdtype(parameter.dtype, mx.floating):
        return parameter
    # Gains around 1 and everything else around 0, large enough that no part is negligible.
    gain = 1.0 if parameter.ndim == 1 else 0.0
    return (gain + 0.3 * mx.random.normal(parameter.shape)).astype(parameter.dtype)
