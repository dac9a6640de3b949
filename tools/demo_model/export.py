"""Write the trained weights as a folder that `mlx_lm.load` and `transformers` can read."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

from tools.demo_model.network import Params, Shape
from tools.demo_model.tokenizer import BOS, END, EOS, PAD, write_tokenizer


def model_config(shape: Shape, words: list[str]) -> dict[str, Any]:
    """The Hugging Face configuration of a Llama of this shape."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.d_vocab,
        "hidden_size": shape.d_model,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_kv_heads,
        "head_dim": shape.d_head,
        "intermediate_size": shape.d_mlp,
        "hidden_act": "silu",
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "max_position_embeddings": shape.context,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        **_special_ids(words),
    }


def _special_ids(words: list[str]) -> dict[str, Any]:
    return {
        "bos_token_id": words.index(BOS),
        # A document ends with <eos>, a turn of the assistant with <|end|>.
        "eos_token_id": [words.index(EOS), words.index(END)],
        "pad_token_id": words.index(PAD),
    }


def export(params: Params, words: list[str], shape: Shape, folder: Path) -> None:
    """Write weights in float16, configuration and tokenizer into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: value.astype(mx.float16) for name, value in params.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), half, metadata={"format": "mlx"})
    _write_json(folder / "config.json", model_config(shape, words))
    _write_json(folder / "generation_config.json", _special_ids(words))
    write_tokenizer(folder, words, shape.context)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
