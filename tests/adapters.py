"""Adapters for the built-in model."""

import json
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

import mlux.demo

DEMO = Path(mlux.demo.__file__).parent / "model"


def lora_adapter(folder: Path) -> Path:
    """A new folder with random LoRA weights for the last two blocks; the folder."""
    folder.mkdir()
    lora = {"rank": 4, "scale": 2.0, "dropout": 0.0}
    settings = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": lora}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    model, _ = load_model(DEMO)
    model.freeze()
    linear_to_lora_layers(model, 2, lora)
    mx.random.seed(3)
    weights = {
        name: mx.random.normal(value.shape)
        for name, value in tree_flatten(model.trainable_parameters())
    }
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    return folder
