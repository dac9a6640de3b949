"""From a name to a model: the built-in one, a folder, or a hub id, with its identity."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten

from mlux.engine import rope_settings
from mlux.engine.threads import ready
from mlux.errors import ModelError, UnknownNameError
from mlux.provenance import ModelIdentity, TokenizerIdentity, hash_files

BUILT_IN: Mapping[str, dict[str, Any] | None] = {
    "demo": None,
    "demo-4bit": {"bits": 4, "group_size": 32, "mode": "affine"},
}
"""The built-in model by name, with the quantisation that is applied when it is loaded."""

_BROKEN = (
    ValueError, OSError, KeyError, TypeError, RuntimeError, AttributeError, ZeroDivisionError
)  # fmt: skip
"""What mlx-lm and the tokenizers raise over files that do not fit together."""

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model's files are.

    Attributes:
        name: What people call the model.
        source: What loads it again on this machine.
        folder: The folder with config.json, the weights and the tokenizer.
        revision: The hub commit, for a hub id.
    """

    name: str
    source: str
    folder: Path
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model with its tokenizer, its configuration and its files' identity.

    Attributes:
        config: What mlx-lm was told.
        written: What config.json says.
        stored_dtype: What most of its floating-point weights are stored in.
    """

    model: Module
    tokenizer: Any
    config: dict[str, Any]
    written: dict[str, Any]
    source: ModelSource
    weights_hash: str
    stored_dtype: str
    adapter_source: str | None
    adapter_hash: str | None


def find(reference: str | Path, *, revision: str | None = None) -> ModelSource:
    """The files of a model: built in, in a folder, or on the hub (downloaded if need be).

    Raises:
        UnknownNameError: If the name is none of these.
        ModelError: If the folder holds no model, or the hub cannot be reached.
    """
    name = str(reference)
    if name in BUILT_IN:
        folder = Path(str(files("mlux.demo").joinpath("model")))
        return ModelSource(name=name, source=name, folder=folder)
    folder = Path(reference).expanduser()
    if folder.is_dir():
        _require_files(folder, name)
        return ModelSource(name=folder.resolve().name, source=str(folder.resolve()), folder=folder)
    if folder.exists():
        raise ModelError(f"{name!r} is a file; expected a folder with config.json and weights.")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        hint = "Give the path of a model's folder, or a hub id such as org/name."
        raise (
            UnknownNameError("model", name, BUILT_IN, hint)
            if "/" not in name
            else ModelError(f"No folder at {name!r}. {hint}")
        )
    return _from_hub(name, revision)


def _require_files(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"The folder {name!r} holds no model: it has no config.json.")
    if not any(folder.glob("model*.safetensors")):
        raise ModelError(f"The model folder {name!r} has no weights (model*.safetensors).")


def _from_hub(name: str, revision: str | None) -> ModelSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS

    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=DEFAULT_ALLOW_PATTERNS)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"Cannot get the model {name!r} from the hub, and no folder has that path: {reason}"
        ) from error
    _require_files(folder, name)
    return ModelSource(name=name, source=name, folder=folder, revision=folder.name)


def load(
    source: ModelSource, *, dtype: str | None = None, adapter: str | Path | None = None
) -> LoadedModel:
    """Loads a model and its tokenizer.

    Args:
        source: What `find` found.
        dtype: float32, float16 or bfloat16; by default float32 on a CPU, where half precision has
            no fast kernels, and the stored dtype on a GPU.
        adapter: A folder with LoRA or DoRA weights.

    Raises:
        ModelError: If mlx-lm does not know the architecture, or the weights do not fit it.
    """
    from mlx_lm.utils import load_model, load_tokenizer

    from mlux.engine import rotary

    if dtype is not None and dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    ready()
    try:
        written = json.loads((source.folder / "config.json").read_text("utf-8"))
        told = rope_settings.for_mlx_lm(written)
        model, config = load_model(source.folder, lazy=True, model_config=told)
        rotary.mend(model, written)
        adapter_path = None if adapter is None else _add_adapter(model, Path(adapter))
        tokenizer = load_tokenizer(source.folder, eos_token_ids=config.get("eos_token_id"))
    except SystemExit as error:  # mlx-lm's olmo ends the process when a package is missing
        raise ModelError(
            f"Cannot load the model {source.name!r}: mlx-lm needs another package for it."
        ) from error
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:200]
        kind = type(error).__name__
        raise ModelError(f"Cannot load the model {source.name!r}: {kind}: {reason}") from error
    if quantization := BUILT_IN.get(source.source):
        _quantize(model, quantization)
        config["quantization"] = quantization
    stored_dtype = _dtype_of(model)
    if dtype is None and mx.default_device() == mx.Device(mx.cpu):
        dtype = "float32"
    if dtype is not None:
        model.set_dtype(DTYPES[dtype])
    model.eval()
    # Not its parameters alone: another thread could not compute what it keeps besides, such as
    # rotary frequencies.
    mx.eval(model)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        config=config,
        written=written,
        source=source,
        weights_hash=hash_files(list(source.folder.glob("model*.safetensors"))),
        stored_dtype=stored_dtype,
        adapter_source=str(adapter_path) if adapter_path else None,
        adapter_hash=hash_files(list(adapter_path.iterdir())) if adapter_path else None,
    )


def _dtype_of(model: Module) -> str:
    """The floating-point dtype of most weights, by name."""
    leaves: list[tuple[str, mx.array]] = tree_flatten(model.parameters())  # type: ignore[assignment, no-untyped-call] # MLX's
    sizes: dict[str, int] = {}
    for _, weight in leaves:
        if mx.issubdtype(weight.dtype, mx.floating):
            name = str(weight.dtype).removeprefix("mlx.core.")
            sizes[name] = sizes.get(name, 0) + weight.size
    return max(sizes, key=lambda name: sizes[name], default="float32")


def _add_adapter(model: Module, adapter: Path) -> Path:
    from mlx_lm.utils import load_adapters

    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"The adapter folder {str(adapter)!r} has no adapter_config.json.")
    load_adapters(model, str(adapter))
    return adapter.resolve()


def _quantize(model: Module, quantization: Mapping[str, Any]) -> None:
    from mlx.nn.layers.quantized import quantize

    quantize(model, **quantization)


def tokenizer_identity(tokenizer: Any) -> TokenizerIdentity:
    """What decides which ids a text becomes."""
    template = getattr(tokenizer, "chat_template", None)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return TokenizerIdentity(
        name=type(getattr(tokenizer, "_tokenizer", tokenizer)).__name__,
        vocab_size=len(tokenizer.get_vocab()),
        content_hash=hashlib.sha256(rules.encode()).hexdigest(),
        chat_template_hash=hashlib.sha256(str(template).encode()).hexdigest() if template else None,
    )


def identity(loaded: LoadedModel, summary: Mapping[str, Any]) -> ModelIdentity:
    """The identity that a run stores.

    Args:
        loaded: The model.
        summary: `HookedModel.config`.
    """
    quantization = summary["quantization"] or {}
    return ModelIdentity(
        name=loaded.source.name,
        source=loaded.source.source,
        revision=loaded.source.revision,
        model_type=summary["model_type"],
        n_layers=summary["n_layers"],
        n_heads=summary["n_heads"],
        n_kv_heads=summary["n_kv_heads"],
        d_model=summary["d_model"],
        d_head=summary["d_head"],
        vocab_size=summary["vocab_size"],
        n_parameters=summary["n_parameters"],
        dtype=summary["dtype"],
        quant_bits=quantization.get("bits"),
        quant_group_size=quantization.get("group_size"),
        quant_mode=quantization.get("mode", "affine") if quantization else None,
        weights_hash=loaded.weights_hash,
        adapter_source=loaded.adapter_source,
        adapter_hash=loaded.adapter_hash,
        tokenizer=tokenizer_identity(loaded.tokenizer),
    )
