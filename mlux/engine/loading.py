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
from mlux.engine.arrays import main_dtype
from mlux.engine.peft import CONFIG as ADAPTER_CONFIG
from mlux.engine.peft import WEIGHTS as ADAPTER_WEIGHTS
from mlux.engine.peft import Peft, open_adapter, other_base
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
        adapter_note: What became of an adapter of PEFT.
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
    adapter_note: str = ""


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
    if (folder / ADAPTER_CONFIG).is_file() and not any(folder.glob("model*.safetensors")):
        raise ModelError(
            f"The folder {name!r} holds an adapter: give its base model as the model, and this "
            "folder with --adapter (adapter_path=)."
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"The folder {name!r} holds no model: it has no config.json.")
    if not any(folder.glob("model*.safetensors")):
        raise ModelError(f"The model folder {name!r} has no weights (model*.safetensors).")


def _from_hub(name: str, revision: str | None) -> ModelSource:
    from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS

    folder = _download(name, revision, DEFAULT_ALLOW_PATTERNS, "model")
    _require_files(folder, name)
    return ModelSource(name=name, source=name, folder=folder, revision=folder.name)


def _download(name: str, revision: str | None, patterns: list[str], what: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"Cannot get the {what} {name!r} from the hub, and no folder has that path: {reason}"
        ) from error


def load(
    source: ModelSource, *, dtype: str | None = None, adapter: str | Path | None = None
) -> LoadedModel:
    """Loads a model and its tokenizer.

    Args:
        source: What `find` found.
        dtype: float32, float16 or bfloat16; by default float32 on a CPU, where half precision has
            no fast kernels, and the stored dtype on a GPU.
        adapter: LoRA or DoRA weights of mlx-lm or of PEFT: see `find_adapter`. Those of PEFT are
            merged into the model's own.

    Raises:
        ModelError: If mlx-lm does not know the architecture, or the weights do not fit it.
    """
    from mlx_lm.utils import load_adapters, load_model, load_tokenizer

    from mlux.engine import rotary

    if dtype is not None and dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    ready()
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    dtype = dtype or ("float32" if on_cpu else None)
    folder = None if adapter is None else find_adapter(adapter)
    try:
        merged = None if folder is None else open_adapter(folder, float32=dtype == "float32")
        classes = {} if merged is None else {"get_model_classes": merged.classes}
        written = json.loads((source.folder / "config.json").read_text("utf-8"))
        told = rope_settings.for_mlx_lm(written)
        model, config = load_model(source.folder, lazy=True, model_config=told, **classes)
        rotary.mend(model, written)
        if folder is not None and merged is None:
            load_adapters(model, str(folder))
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
    stored_dtype = merged.stored_dtype if merged else _dtype_of(model)
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
        adapter_source=_adapter_source(adapter),
        adapter_hash=hash_files(_adapter_files(folder, merged)) if folder else None,
        adapter_note=_said_of(merged, source, written) if merged else "",
    )


def _dtype_of(model: Module) -> str:
    leaves: list[tuple[str, mx.array]] = tree_flatten(model.parameters())  # type: ignore[assignment, no-untyped-call] # MLX's
    return main_dtype(weight for _, weight in leaves)


def find_adapter(adapter: str | Path) -> Path:
    """The folder of an adapter: a folder, one of the hub's cache, or a hub id (downloaded).

    Raises:
        ModelError: If there is none.
    """
    folder = Path(adapter).expanduser()
    if (folder / "refs" / "main").is_file():  # models--org--name
        folder = folder / "snapshots" / (folder / "refs" / "main").read_text("utf-8").strip()
    name = str(adapter)
    if not folder.exists() and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        folder = _download(name, None, [ADAPTER_CONFIG, "adapter*.safetensors"], "adapter")
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(f"The adapter folder {name!r} has no adapter_config.json.")
    return folder


def _adapter_source(adapter: str | Path | None) -> str | None:
    """What loads it again: the whole path of a folder, or a hub id."""
    if adapter is None:
        return None
    folder = Path(adapter).expanduser()
    return str(folder.resolve()) if folder.exists() else str(adapter)


def _adapter_files(folder: Path, merged: Peft | None) -> list[Path]:
    if merged:
        return [folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS]
    return [path for path in folder.iterdir() if path.is_file()]


def _said_of(merged: Peft, source: ModelSource, written: Mapping[str, Any]) -> str:
    names = (source.name, source.source, str(written.get("_name_or_path") or ""))
    other = [f"made for {merged.base}, not for {source.name}"] * other_base(merged, names)
    return "; ".join([*merged.notes, *other])


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
