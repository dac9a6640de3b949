"""A model whose inside can be read and edited by name, the same on every architecture."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlux.engine import generation, loading, sites
from mlux.engine.anatomy import Anatomy
from mlux.engine.batching import TokenBatch, context_length, encode_any, encode_text, pad
from mlux.engine.cache import ActivationCache
from mlux.engine.certificate import Certificate
from mlux.engine.checking import check
from mlux.engine.continuation import Completion
from mlux.engine.learning import learn
from mlux.engine.oddities import forward_arguments
from mlux.engine.passes import Hook, HookWrapper, Pass, PreHook
from mlux.engine.places import Layout
from mlux.engine.sampling import Options
from mlux.errors import HookError, ModelError, ParameterError, PromptError
from mlux.provenance import ModelIdentity

Tokens = str | Sequence[str] | Sequence[int] | mx.array
"""A text, a list of texts, a list of token ids, or token ids [batch, seq] (or [seq])."""


class HookedModel:
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

        Args:
            reference: `demo` or `demo-4bit` (built in), a folder, or a hub id.
            adapter_path: A folder with LoRA or DoRA weights.
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

    def __repr__(self) -> str:
        """Architecture and size."""
        config = self.config
        return (
            f"HookedModel({config['model_type']}, {config['n_layers']} layers, "
            f"{config['n_heads']} heads, d_model {config['d_model']}, {config['dtype']})"
        )

    @property
    def layers(self) -> list[Module]:
        """The blocks, on any architecture."""
        return list(self.model.layers)

    @cached_property
    def layout(self) -> Layout:
        """Where everything is; learned from one traced pass when it is first needed."""
        named: list[tuple[str, Module]] = self.model.named_modules()  # type: ignore[no-untyped-call] # MLX's
        return Layout(anatomy=learn(self.model, self._vocab_size), modules=dict(named))

    @property
    def anatomy(self) -> Anatomy:
        """What the traced pass found."""
        return self.layout.anatomy

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's sizes under the field's names.

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
        """The dtype of the residual stream."""
        path = "model.embed_tokens" if self.anatomy.reason(0, "resid_post") else sites.resid_post(0)
        _, cache = self.run_with_cache(mx.array([[0]]), hooks=[path])
        return cache[path].dtype

    @cached_property
    def identity(self) -> ModelIdentity:
        """What a run stores of the model.

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
        return int(size) if size else len(self.tokenizer.get_vocab())

    def check(self) -> Certificate:
        """The self-test: what can be read and edited in this model, with the measured errors.

        It takes less than thirty forward passes on a short prompt.
        """
        return check(self)

    def available_hooks(self) -> list[str]:
        """Every path that can be hooked: the canonical names, then the modules' own paths."""
        return self.layout.available()

    def find_hooks(self, text: str) -> list[str]:
        """The paths of `available_hooks` that contain a text."""
        return [path for path in self.available_hooks() if text in path]

    def tokenize(self, text: str, add_bos: bool = True) -> list[int]:
        """The token ids of a text, beginning with the BOS token where the tokenizer adds one."""
        return encode_text(self.tokenizer, text, add_bos=add_bos)

    @property
    def quantization_bits(self) -> int | None:
        """The fewest bits of a quantised module; None for a model in full precision."""
        modules = self.layout.modules.values()
        return min((module.bits for module in modules if hasattr(module, "bits")), default=None)

    def get_tolerance(self, strict: float = 1e-5, relaxed: float = 0.15) -> float:
        """How far two ways to compute the same logits may lie apart on this model.

        Args:
            strict: In full precision.
            relaxed: Up to 4 bits; half of it up to 8.
        """
        bits = self.quantization_bits
        if bits is None or bits > 8:
            return strict
        return relaxed if bits <= 4 else relaxed / 2

    def to_batch(self, x: Tokens) -> TokenBatch:
        """Right-padded token ids.

        Raises:
            PromptError: If a row is empty or longer than the model's context.
        """
        batch = self._to_batch(x)
        limit = context_length(self._raw_config)
        if limit is not None and max(batch.lengths) > limit:
            raise PromptError(
                f"A prompt has {max(batch.lengths)} tokens; this model's context is {limit}."
            )
        return batch

    def _to_batch(self, x: Tokens) -> TokenBatch:
        if isinstance(x, mx.array):
            tokens = x if x.ndim == 2 else x[None]
            if tokens.ndim != 2 or tokens.size == 0:
                raise PromptError(f"Token ids have shape {list(x.shape)}; expected [batch, seq].")
            return TokenBatch(tokens=tokens, lengths=(tokens.shape[1],) * tokens.shape[0])
        if isinstance(x, str):
            return pad([encode_text(self.tokenizer, x)])
        if all(isinstance(item, str) for item in x):
            return pad([encode_text(self.tokenizer, str(text)) for text in x])
        return pad([[int(item) for item in x]])

    def forward(self, x: Tokens) -> mx.array:
        """Logits [batch, seq, vocab_size] without any hook."""
        return self.run_with_hooks(x)

    def run_with_cache(
        self,
        x: Tokens,
        hooks: Iterable[str] | Callable[[str], bool] | None = None,
        *,
        positions: mx.array | None = None,
    ) -> tuple[mx.array, ActivationCache]:
        """Runs the model and keeps activations.

        Args:
            x: A text, a list of texts, token ids, or an array [batch, seq].
            hooks: Paths, or a predicate on the paths of `available_hooks`; by default the residual
                stream after each block and what each attention and MLP adds.
            positions: [batch], the one position of each row to unembed; by default all.

        Returns:
            Logits [batch, seq, vocab_size] ([batch, 1, vocab_size] with `positions`), and the
            activations by path, evaluated. Blocks,
            attention and MLP are [batch, seq, d_model]; q, k, v, z are [batch, n_heads, seq,
            d_head]; pattern is [batch, n_heads, query, key]; head.{h} is [batch, seq, d_head].

        Raises:
            UnknownNameError: If a path does not exist.
            HookError: If the model lacks what a path names, or never ran it.
        """
        state = self._pass()
        state.add_captures(self._select(hooks))
        self._unembed_only(state, positions)
        logits = self._run(state, self.to_batch(x).tokens)
        logits = self._unembedded(logits, positions)
        mx.eval(logits, list(state.captured.values()))
        return logits, ActivationCache(state.captured)

    def run_with_hooks(
        self,
        x: Tokens,
        hooks: Sequence[tuple[str, Hook]] = (),
        pre_hooks: Sequence[tuple[str, PreHook]] = (),
        cache: Any = None,
    ) -> mx.array:
        """Runs the model with hooks and returns the logits [batch, seq, vocab_size].

        Args:
            x: As in `run_with_cache`.
            hooks: (path, `fn(inputs, output, wrapper)`), which returns a replacement or None.
            pre_hooks: (path, `fn(args, kwargs, wrapper)`), which returns (args, kwargs) or None.
            cache: mlx-lm's key-value cache, one entry a layer.

        Raises:
            UnknownNameError: If a path does not exist.
            HookError: If a hook never fired or returned something of another shape or dtype.
        """
        state = self._hooked_pass(hooks, pre_hooks)
        logits = self._run(state, self.to_batch(x).tokens, cache)
        mx.eval(logits)
        return logits

    def generate(
        self,
        prompt: Any,
        max_tokens: int = 64,
        temperature: float = 0.0,
        *,
        hooks: Sequence[tuple[str, Hook]] = (),
        pre_hooks: Sequence[tuple[str, PreHook]] = (),
        prompt_cache: Any = None,
        **options: Any,
    ) -> Any:
        """What the model writes after a prompt, with hooks active from the prompt's first token on.

        Without hooks the text is what `mlx_lm.generate` writes.

        Example:
            >>> model = HookedModel.from_pretrained("demo")
            >>> model.generate("the capital of france is", max_tokens=1)
            'paris'

        Args:
            prompt: A text, a `Prompt`, token ids, the turns of a chat ({"role", "content"}; the
                last one is continued if it is the assistant's), or a list of these.
            max_tokens: The most tokens to generate.
            temperature: 0 takes the most probable token.
            hooks: As in `run_with_hooks`. See `mlux.engine.generation` for the shapes they see.
            pre_hooks: As in `run_with_hooks`.
            prompt_cache: mlx-lm's cache of what comes before a single prompt; it is filled.
            **options: The other attributes of `mlux.engine.sampling.Options`: top_p, top_k,
                min_p, seed, stop, kv_bits, kv_group_size, quantized_kv_start, max_kv_size.

        Returns:
            The text, without the prompt; for a list of prompts the list of texts.

        Raises:
            PromptError: If a prompt is empty, longer than the context or not in the vocabulary.
            ParameterError: If an option is out of range, or this model cannot have it.
            HookError: If a hook never fired or returned something of another shape or dtype.
        """
        settings = Options.of(max_tokens=max_tokens, temperature=temperature, **options)
        rows, is_batch = encode_any(self.tokenizer, prompt)
        if self.tokenizer is None:
            raise ModelError("This model has no tokenizer to write text with; see complete().")
        state = self._hooked_pass(hooks, pre_hooks)
        if is_batch and prompt_cache is not None:
            raise ParameterError("A prompt_cache belongs to one prompt, not to a list of them.")
        if prompt_cache is not None:
            stream = generation.Stream(self, rows[0], settings, state, prompt_cache=prompt_cache)
            return stream.complete().text
        texts = [done.text for done in generation.complete(self, rows, settings, state)]
        return texts if is_batch else texts[0]

    def complete(
        self,
        prompts: Any,
        *,
        hooks: Sequence[tuple[str, Hook]] = (),
        pre_hooks: Sequence[tuple[str, PreHook]] = (),
        **options: Any,
    ) -> list[Completion]:
        """Like `generate`, always for a list: token ids, texts and why each one ended."""
        rows, _ = encode_any(self.tokenizer, prompts)
        state = self._hooked_pass(hooks, pre_hooks)
        return generation.complete(self, rows, Options.of(**options), state)

    def stream(
        self,
        prompt: Any,
        *,
        hooks: Sequence[tuple[str, Hook]] = (),
        pre_hooks: Sequence[tuple[str, PreHook]] = (),
        prompt_cache: Any = None,
        **options: Any,
    ) -> generation.Stream:
        """Like `generate` for one prompt, token by token.

        Example:
            >>> model = HookedModel.from_pretrained("demo")
            >>> "".join(chunk.text for chunk in model.stream("the capital of france is"))[:5]
            'paris'
        """
        rows, is_batch = encode_any(self.tokenizer, prompt)
        if is_batch:
            raise ParameterError("A stream has one prompt; generate() takes a list of them.")
        state = self._hooked_pass(hooks, pre_hooks)
        settings = Options.of(**options)
        return generation.Stream(self, rows[0], settings, state, prompt_cache=prompt_cache)

    def get_attention_patterns(
        self, x: Tokens, layers: Iterable[int] | None = None
    ) -> dict[int, mx.array]:
        """Attention weights by layer, [batch, n_heads, query, key], float32.

        Args:
            x: As in `run_with_cache`.
            layers: Which layers; by default every layer with softmax attention.
        """
        if layers is None:
            layers = [i for i, block in enumerate(self.anatomy.blocks) if block.n_heads]
        paths = {layer: sites.tap(layer, "pattern") for layer in layers}
        _, cache = self.run_with_cache(x, hooks=paths.values())
        return {layer: cache[path] for layer, path in paths.items()}

    def unembed(self, resid: mx.array) -> mx.array:
        """The model's own head on a residual stream: final norm, unembedding, soft-cap and scale.

        Args:
            resid: [batch, seq, d_model], in the place of the last block's output.

        Returns:
            Logits [batch, seq, vocab_size], lazy.

        Raises:
            HookError: If the model's head reads more than that.
        """
        if reason := self.anatomy.lacks.get("lens"):
            raise HookError(f"No lens: {reason}.")
        # The rest of the model is built into the graph, but nothing needs it, so it never runs.
        tokens = mx.zeros(resid.shape[:2], dtype=mx.int32)
        state = self._pass()
        state.add_hook(self._last_block, _replace_by(resid), checked=False)
        return self._run(state, tokens)

    def run_from(
        self,
        layer: int,
        resid: mx.array,
        *,
        hooks: Sequence[tuple[str, Hook]] = (),
        captures: Sequence[str] = (),
        positions: mx.array | None = None,
        tokens: mx.array | None = None,
    ) -> tuple[mx.array, ActivationCache]:
        """Runs the model from a block's input on; the blocks before it are never computed.

        Args:
            layer: The first block to run.
            resid: Its input, [batch, seq, d_model].
            tokens: Token ids of the same shape. Some architectures read more than the residual
                stream in later blocks (token embeddings, keys and values of earlier blocks); what
                they need is computed from these.
            hooks: As in `run_with_hooks`, at that block or later.
            captures: Paths to keep, at that block or later.
            positions: [batch], the one position of each row to unembed; by default all.

        Returns:
            Logits [batch, seq, vocab_size] ([batch, 1, vocab_size] with `positions`) and the
            activations, both lazy.
        """
        state = self._pass()
        state.add_hook(sites.resid_pre(layer), _replace_by(resid))
        for path, hook in hooks:
            state.add_hook(path, hook)
        state.add_captures(captures)
        self._unembed_only(state, positions)
        if tokens is None:
            tokens = mx.zeros(resid.shape[:2], dtype=mx.int32)
        logits = self._unembedded(self._run(state, tokens), positions)
        return logits, ActivationCache(state.captured)

    @property
    def _last_block(self) -> str:
        return sites.resid_post(len(self.anatomy.blocks) - 1)

    def _unembed_only(self, state: Pass, positions: mx.array | None) -> None:
        if positions is not None and "lens" not in self.anatomy.lacks:
            state.add_hook(self._last_block, _gather(positions), checked=False)

    def _hooked_pass(
        self, hooks: Sequence[tuple[str, Hook]], pre_hooks: Sequence[tuple[str, PreHook]]
    ) -> Pass:
        state = self._pass()
        for path, pre_hook in pre_hooks or ():
            state.add_pre_hook(path, pre_hook)
        for path, hook in hooks or ():
            state.add_hook(path, hook)
        return state

    def _unembedded(self, logits: mx.array, positions: mx.array | None) -> mx.array:
        """The logits at the positions, also where the head had to see every position."""
        if positions is None or "lens" not in self.anatomy.lacks:
            return logits
        return mx.take_along_axis(logits, positions[:, None, None], axis=1)

    def _pass(self) -> Pass:
        return Pass(layout=self.layout)

    def _run(self, state: Pass, tokens: mx.array, cache: Any = None) -> mx.array:
        arguments = forward_arguments(self.model) if cache is None else {"cache": cache}
        logits: mx.array = state.run(lambda: self.model(tokens, **arguments))
        self.hook_fires += state.fired.total()
        return logits

    def _select(self, hooks: Iterable[str] | Callable[[str], bool] | None) -> list[str]:
        if hooks is None:
            return self.layout.residual_sites()
        if callable(hooks):
            chosen = [path for path in self.available_hooks() if hooks(path)]
            if not chosen:
                raise HookError("The predicate chose none of the paths of available_hooks().")
            return chosen
        return [hooks] if isinstance(hooks, str) else list(hooks)


def _replace_by(array: mx.array) -> Hook:
    def hook(inputs: tuple[Any, ...], output: Any, wrapper: HookWrapper) -> mx.array:
        return array

    return hook


def _gather(positions: mx.array) -> Hook:
    def hook(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return mx.take_along_axis(output, positions[:, None, None], axis=1)  # [batch, 1, d_model]

    return hook


def _count_parameters(model: Module) -> int:
    from mlx_lm.utils import get_total_parameters

    total: int = get_total_parameters(model)
    return total


def _own_arguments(model: Module) -> dict[str, Any]:
    """The configuration that an mlx-lm model keeps, for one that was not loaded from files."""
    arguments = getattr(model, "args", None)
    return {} if arguments is None else dict(vars(arguments))
