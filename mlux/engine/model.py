"""A model whose inside can be read and edited by name, the same on every architecture."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlux import display
from mlux.engine import loading, sites
from mlux.engine.batching import context_length, encode_text
from mlux.engine.certificate import Certificate
from mlux.engine.checking import check
from mlux.engine.learning import embedding_rows, learn
from mlux.engine.places import Layout
from mlux.engine.unread import unread
from mlux.engine.writing import Writing
from mlux.errors import ModelError
from mlux.provenance import ModelIdentity


class HookedModel(Writing):
    """A language model with hooks.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> logits, cache = model.run_with_cache(
        ...     "the capital of france is", hooks=["model.layers.3"]
        ... )
        >>> cache["model.layers.3"].shape
        (1, 6, 128)

    Attributes:
        model: The mlx-lm model.
        tokenizer: Its tokenizer.
        hook_fires: How often hooks and captures fired since the model was made.
    """

    def __init__(
        self,
        model: Module,
        tokenizer: Any = None,
        *,
        config: Mapping[str, Any] | None = None,
        loaded: loading.LoadedModel | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.hook_fires = 0
        self._raw_config = dict(config or _own_arguments(model))
        self._loaded = loaded

    @classmethod
    def from_pretrained(
        cls,
        reference: str | Path,
        *,
        adapter_path: str | Path | None = None,
        dtype: str | None = None,
        revision: str | None = None,
    ) -> "HookedModel":
        """Loads a model.

        Example:
            >>> HookedModel.from_pretrained("demo", dtype="float16")
            HookedModel(llama, 6 layers, 4 heads, d_model 128, float16)

        Args:
            reference: `demo` or `demo-4bit` (built in), a folder, or a hub id.
            adapter_path: LoRA or DoRA weights of mlx-lm or of PEFT: a folder, one of the hub's
                cache, or a hub id. Those of PEFT are merged into the model's weights.
            dtype: float32, float16 or bfloat16; by default float32 on a CPU and the stored dtype
                on a GPU.
            revision: A branch, tag or commit on the hub.

        Raises:
            UnknownNameError: If there is no such model.
            ModelError: If it cannot be loaded.
        """
        source = loading.find(reference, revision=revision)
        loaded = loading.load(source, dtype=dtype, adapter=adapter_path)
        return cls(loaded.model, loaded.tokenizer, config=loaded.config, loaded=loaded)

    def _repr_html_(self) -> str:
        """Its configuration as a table, for notebooks."""
        facts = {name: value for name, value in self.config.items() if not isinstance(value, dict)}
        return display.facts("HookedModel", facts)

    def __repr__(self) -> str:
        """Architecture and size."""
        config = self.config
        return (
            f"HookedModel({config['model_type']}, {config['n_layers']} layers, "
            f"{config['n_heads']} heads, d_model {config['d_model']}, {config['dtype']})"
        )

    @property
    def stored_dtype(self) -> str:
        """What its weights are stored in, which a CPU by default computes in float32.

        Example:
            >>> HookedModel.from_pretrained("demo", dtype="bfloat16").stored_dtype
            'float16'
        """
        return self._loaded.stored_dtype if self._loaded else str(self.config["dtype"])

    @property
    def adapter_note(self) -> str:
        """What became of an adapter of PEFT; empty without one.

        Example:
            >>> HookedModel.from_pretrained("demo").adapter_note
            ''
        """
        return self._loaded.adapter_note if self._loaded else ""

    @property
    def layers(self) -> list[Module]:
        """The blocks, on any architecture.

        Example:
            >>> model = HookedModel.from_pretrained("demo")
            >>> len(model.layers)
            6
        """
        return list(self.model.layers)

    @cached_property
    def layout(self) -> Layout:
        """Where everything is; learned from one traced pass when it is first needed.

        Example:
            >>> model = HookedModel.from_pretrained("demo")
            >>> type(model.layout.mixer(0)).__name__
            'Attention'
        """
        named: list[tuple[str, Module]] = self.model.named_modules()  # type: ignore[no-untyped-call] # MLX's
        return Layout(anatomy=learn(self.model, self._vocab_size), modules=dict(named))

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's sizes under the field's names.

        Example:
            >>> model = HookedModel.from_pretrained("demo")
            >>> model.config["n_heads"], model.config["d_head"], model.config["d_model"]
            (4, 32, 128)

        Keys: model_type, n_layers, n_heads, n_kv_heads, d_head, d_model, vocab_size,
        n_parameters, context_length (None if unknown), dtype, quantization (None, or its bits,
        group_size and mode).
        """
        widest = max(self.anatomy.blocks, key=lambda block: block.n_heads)
        dtype = self.resid_dtype
        return {
            "model_type": self._raw_config.get("model_type", getattr(self.model, "model_type", "")),
            "n_layers": len(self.anatomy.blocks),
            "n_heads": widest.n_heads,
            "n_kv_heads": widest.n_kv_heads,
            "d_head": widest.d_head,
            "d_model": self.anatomy.d_model,
            "vocab_size": self._vocab_size,
            "n_parameters": _count_parameters(self.model),
            "context_length": context_length(self._raw_config),
            "dtype": str(dtype).removeprefix("mlx.core."),
            "quantization": self._raw_config.get("quantization"),
        }

    @cached_property
    def resid_dtype(self) -> mx.Dtype:
        """The dtype of the residual stream.

        Example:
            >>> model = HookedModel.from_pretrained("demo")
            >>> str(model.resid_dtype)
            'mlx.core.float32'
        """
        path = "model.embed_tokens" if self.anatomy.reason(0, "resid_post") else sites.resid_post(0)
        _, cache = self.run_with_cache(mx.array([[0]]), hooks=[path])
        return cache[path].dtype

    @cached_property
    def identity(self) -> ModelIdentity:
        """What a run stores of the model.

        Example:
            >>> model = HookedModel.from_pretrained("demo")
            >>> model.identity.name, model.identity.quant_bits
            ('demo', None)

        Raises:
            ModelError: If the model was not loaded from files.
        """
        if self._loaded is None:
            raise ModelError(
                "This model was made in memory, so a run could not say which one it was. "
                "Save it to a folder and load it with HookedModel.from_pretrained."
            )
        return loading.identity(self._loaded, self.config)

    @property
    def _vocab_size(self) -> int:
        text = self._raw_config.get("text_config") or {}
        size = self._raw_config.get("vocab_size", text.get("vocab_size"))
        if size:
            return int(size)
        return self._embedding_rows if self.tokenizer is None else len(self.tokenizer.get_vocab())

    @cached_property
    def _embedding_rows(self) -> int:
        return embedding_rows(self.model)

    @property
    def written_config(self) -> dict[str, Any] | None:
        """What config.json says; None for a model that was not loaded from files.

        Example:
            >>> HookedModel.from_pretrained("demo").written_config["model_type"]
            'llama'
        """
        return None if self._loaded is None else self._loaded.written

    @cached_property
    def unread_settings(self) -> tuple[str, ...]:
        """Settings of config.json that bear on the mathematics and that mlx-lm does not read.

        Example:
            >>> HookedModel.from_pretrained("demo").unread_settings
            ()
        """
        written = self.written_config
        return () if written is None else unread(self.model, written)

    def check(self) -> Certificate:
        """The self-test: what can be read and edited in this model, with the measured errors.

        Example:
            >>> model = HookedModel.from_pretrained("demo")
            >>> model.check().row("lens").verdict
            'exact'

        It takes less than thirty forward passes on a short prompt.
        """
        return check(self)

    def available_hooks(self) -> list[str]:
        """Every path that can be hooked: the canonical names, then the modules' own paths.

        Example:
            >>> model = HookedModel.from_pretrained("demo")
            >>> model.available_hooks()[:3]
            ['model.embed_tokens', 'model.layers.0.input', 'model.layers.0']
        """
        return self.layout.available()

    def find_hooks(self, text: str) -> list[str]:
        """The paths of `available_hooks` that contain a text.

        Example:
            >>> model = HookedModel.from_pretrained("demo")
            >>> model.find_hooks("layers.5.self_attn.head")[0]
            'model.layers.5.self_attn.head.0'
        """
        return [path for path in self.available_hooks() if text in path]

    def tokenize(self, text: str, add_bos: bool = True) -> list[int]:
        """The token ids of a text, beginning with the BOS token where the tokenizer adds one.

        Example:
            >>> model = HookedModel.from_pretrained("demo")
            >>> len(model.tokenize("the capital of france is"))
            6
        """
        return encode_text(self.tokenizer, text, add_bos=add_bos)

    def _tokenize(self, input: str | mx.array) -> mx.array:
        """Token ids [batch, seq], as notebooks of 0.2 ask for them; an array stays what it is."""
        return self.to_batch(input).tokens if isinstance(input, str) else input

    @property
    def quantization_bits(self) -> int | None:
        """The fewest bits of a quantised module; None for a model in full precision.

        Example:
            >>> HookedModel.from_pretrained("demo-4bit").quantization_bits
            4
        """
        modules = self.layout.modules.values()
        return min((module.bits for module in modules if hasattr(module, "bits")), default=None)

    def get_tolerance(self, strict: float = 1e-5, relaxed: float = 0.15) -> float:
        """How far two ways to compute the same logits may lie apart on this model.

        Example:
            >>> HookedModel.from_pretrained("demo-4bit").get_tolerance()
            0.15

        Args:
            strict: In full precision.
            relaxed: Up to 4 bits; half of it up to 8.
        """
        bits = self.quantization_bits
        if bits is None or bits > 8:
            return strict
        return relaxed if bits <= 4 else relaxed / 2


def _count_parameters(model: Module) -> int:
    from mlx_lm.utils import get_total_parameters

    total: int = get_total_parameters(model)
    return total


def _own_arguments(model: Module) -> dict[str, Any]:
    """The configuration that an mlx-lm model keeps, for one that was not loaded from files."""
    arguments = getattr(model, "args", None)
    return (
        {} if arguments is None else {key: _plain(value) for key, value in vars(arguments).items()}
    )


def _plain(value: Any) -> Any:
    """A nested configuration as the dictionary that it is in config.json."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
