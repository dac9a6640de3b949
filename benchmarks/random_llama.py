"""The model that the benchmarks of the engine and of the sweeps share."""

from mlux.engine import HookedModel  # before MLX, which binds its BLAS at once

import mlx.core as mx  # isort: skip

SIZES = {
    "model_type": "llama",
    "hidden_size": 512,
    "num_hidden_layers": 12,
    "intermediate_size": 1376,
    "num_attention_heads": 8,
    "rms_norm_eps": 1e-5,
    "vocab_size": 4096,
    "tie_word_embeddings": True,
}


def random_llama() -> HookedModel:
    """40 million parameters, float32."""
    from mlx_lm.models import llama

    mx.random.seed(0)
    model = llama.Model(llama.ModelArgs.from_dict(SIZES))
    mx.eval(model.parameters())
    return HookedModel(model, None, config=SIZES)
