"""Running a model with hooks, from its tokens or from the middle."""

from collections.abc import Callable, Iterable, Sequence
from operator import index
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlux.engine import sites
from mlux.engine.anatomy import Anatomy
from mlux.engine.batching import TokenBatch, context_length, encode_text, pad
from mlux.engine.cache import ActivationCache
from mlux.engine.oddities import forward_arguments
from mlux.engine.passes import Hook, HookWrapper, Pass, PreHook
from mlux.engine.places import Layout
from mlux.errors import HookError, PromptError

Tokens = str | Sequence[str] | Sequence[int] | mx.array
"""A text, a list of texts, a list of token ids, or token ids [batch, seq] (or [seq])."""


class Running:
    """The part of `HookedModel` that runs forward passes."""

    model: Module
    tokenizer: Any
    hook_fires: int
    _raw_config: dict[str, Any]

    @property
    def layout(self) -> Layout:
        """Where everything is."""
        raise NotImplementedError

    @property
    def _vocab_size(self) -> int:
        raise NotImplementedError

    @property
    def config(self) -> dict[str, Any]:
        """The model's sizes."""
        raise NotImplementedError

    @property
    def anatomy(self) -> Anatomy:
        """What the traced pass found.

        Example:
            >>> from mlux import HookedModel
            >>> model = HookedModel.from_pretrained("demo")
            >>> model.anatomy.blocks[0].o_proj
            'model.layers.0.self_attn.o_proj'
        """
        return self.layout.anatomy

    def to_batch(self, x: Tokens) -> TokenBatch:
        """Right-padded token ids.

        Example:
            >>> from mlux import HookedModel
            >>> model = HookedModel.from_pretrained("demo")
            >>> model.to_batch(["mary lives in", "the capital of france is"]).lengths
            (4, 6)

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

    def _to_batch(self, x: Any) -> TokenBatch:
        if isinstance(x, str):
            return pad([encode_text(self.tokenizer, x)])
        if isinstance(x, list | tuple) and x and all(isinstance(item, str) for item in x):
            return pad([encode_text(self.tokenizer, text) for text in x])
        if isinstance(x, list | tuple) and x and all(isinstance(i, list | tuple) for i in x):
            return pad([self._token_row(row) for row in x])
        if isinstance(x, list | tuple):
            return pad([self._token_row(x)])
        if not isinstance(x, mx.array):
            x = _as_array(x)
        tokens = x if x.ndim == 2 else x[None]
        if tokens.ndim != 2 or tokens.size == 0 or not mx.issubdtype(x.dtype, mx.integer):
            raise PromptError(
                f"Token ids are {x.dtype} of shape {list(x.shape)}; expected integers [batch, seq]."
            )
        self._check_range(int(mx.min(tokens)), int(mx.max(tokens)))
        return TokenBatch(tokens=tokens, lengths=(tokens.shape[1],) * tokens.shape[0])

    def _token_row(self, row: Sequence[Any]) -> list[int]:
        try:
            ids = [index(item) for item in row]
        except TypeError as error:
            raise PromptError(f"A token id is no whole number: {error}.") from error
        self._check_range(min(ids, default=0), max(ids, default=0))
        return ids

    def _check_range(self, least: int, most: int) -> None:
        # Not left to MLX: an id past the embedding reads whatever lies behind it in memory.
        if least < 0 or most >= self._vocab_size:
            raise PromptError(
                f"There is token {least if least < 0 else most}; this model knows tokens 0 to "
                f"{self._vocab_size - 1}."
            )

    def forward(self, x: Tokens) -> mx.array:
        """Logits [batch, seq, vocab_size] without any hook.

        Example:
            >>> from mlux import HookedModel
            >>> model = HookedModel.from_pretrained("demo")
            >>> model.forward("mary lives in").shape
            (1, 4, 1466)
        """
        return self.run_with_hooks(x)

    def run_with_cache(
        self,
        x: Tokens,
        hooks: Iterable[str] | Callable[[str], bool] | None = None,
        *,
        positions: mx.array | None = None,
        edits: Sequence[tuple[str, Hook]] = (),
        lazy: bool = False,
    ) -> tuple[mx.array, ActivationCache]:
        """Runs the model and keeps activations.

        Example:
            >>> from mlux import HookedModel
            >>> model = HookedModel.from_pretrained("demo")
            >>> path = "model.layers.0.self_attn.z"
            >>> _, cache = model.run_with_cache("mary lives in", hooks=[path])
            >>> cache[path].shape
            (1, 4, 4, 32)

        Args:
            x: A text, a list of texts, token ids, or an array [batch, seq].
            hooks: Paths, or a predicate on the paths of `available_hooks`; by default the residual
                stream after each block and what each attention and MLP adds.
            positions: [batch], the one position of each row to unembed; by default all.
            edits: Hooks as in `run_with_hooks`; what is kept is what flows on after them.
            lazy: Leave it to the caller to evaluate what is returned.

        Returns:
            Logits [batch, seq, vocab_size] ([batch, 1, vocab_size] with `positions`), and the
            activations by path, evaluated. Texts of unequal length are padded on the right: the
            last real position of each row is `model.to_batch(x).last`, not -1. Blocks, attention
            and MLP are [batch, seq, d_model]; q, k, v, z are [batch, n_heads, seq,
            d_head]; pattern is [batch, n_heads, query, key]; head.{h} is [batch, seq, d_head].

        Raises:
            UnknownNameError: If a path does not exist.
            HookError: If the model lacks what a path names, or never ran it.
        """
        tokens = self.to_batch(x).tokens
        state = self._hooked_pass(edits, ())
        state.add_captures(self._select(hooks))
        _check_positions(positions, tokens.shape)
        self._unembed_only(state, positions)
        logits = self._run(state, tokens)
        logits = self._unembedded(logits, positions)
        if not lazy:
            mx.eval(logits, state.captured)
        return logits, ActivationCache(state.captured)

    def run_with_hooks(
        self,
        x: Tokens,
        hooks: Sequence[tuple[str, Hook]] = (),
        pre_hooks: Sequence[tuple[str, PreHook]] = (),
        cache: Any = None,
        *,
        positions: mx.array | None = None,
    ) -> mx.array:
        """Runs the model with hooks and returns the logits [batch, seq, vocab_size].

        Example:
            >>> from mlux import HookedModel
            >>> model = HookedModel.from_pretrained("demo")
            >>> def silence(inputs, output, wrapper):
            ...     return output * 0
            >>> hooks = [("model.layers.1.self_attn.head.1", silence)]
            >>> model.run_with_hooks("mary lives in", hooks=hooks).shape
            (1, 4, 1466)

        Args:
            x: As in `run_with_cache`.
            hooks: (path, `fn(inputs, output, wrapper)`), which returns a replacement or None.
            pre_hooks: (path, `fn(args, kwargs, wrapper)`), which returns (args, kwargs) or None.
            cache: mlx-lm's key-value cache, one entry a layer.
            positions: [batch], the one position of each row to unembed; by default all.

        Raises:
            UnknownNameError: If a path does not exist.
            HookError: If a hook never fired or returned something of another shape or dtype.
        """
        tokens = self.to_batch(x).tokens
        state = self._hooked_pass(hooks, pre_hooks)
        _check_positions(positions, tokens.shape)
        self._unembed_only(state, positions)
        logits = self._unembedded(self._run(state, tokens, cache), positions)
        mx.eval(logits)
        return logits

    def get_attention_patterns(
        self, x: Tokens, layers: Iterable[int] | None = None
    ) -> dict[int, mx.array]:
        """Attention weights by layer, [batch, n_heads, query, key], float32.

        Example:
            >>> from mlux import HookedModel
            >>> model = HookedModel.from_pretrained("demo")
            >>> model.get_attention_patterns("mary lives in", layers=[2])[2].shape
            (1, 4, 4, 4)

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

        Example:
            >>> from mlux import HookedModel
            >>> model = HookedModel.from_pretrained("demo")
            >>> logits, cache = model.run_with_cache("mary lives in", hooks=["model.layers.5"])
            >>> bool((model.unembed(cache["model.layers.5"]) == logits).all())
            True

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
        pre_hooks: Sequence[tuple[str, PreHook]] = (),
    ) -> tuple[mx.array, ActivationCache]:
        """Runs the model from a block's input on; the blocks before it are never computed.

        Example:
            >>> from mlux import HookedModel
            >>> model = HookedModel.from_pretrained("demo")
            >>> path = "model.layers.3.input"
            >>> logits, cache = model.run_with_cache("mary lives in", hooks=[path])
            >>> resumed, _ = model.run_from(3, cache[path])
            >>> bool((resumed == logits).all())
            True

        Args:
            layer: The first block to run.
            resid: Its input, [batch, seq, d_model].
            tokens: Token ids of the same shape. Some architectures read more than the residual
                stream in later blocks (token embeddings, keys and values of earlier blocks); what
                they need is computed from these.
            hooks: As in `run_with_hooks`, at that block or later.
            captures: Paths to keep, at that block or later.
            positions: [batch], the one position of each row to unembed; by default all.
            pre_hooks: As in `run_with_hooks`, at that block or later.

        Returns:
            Logits [batch, seq, vocab_size] ([batch, 1, vocab_size] with `positions`) and the
            activations, both lazy.
        """
        _check_positions(positions, resid.shape)
        for path in (*(path for path, _ in hooks), *captures):
            site = sites.parse(path)
            if site is not None and site.layer is not None and site.layer < layer:
                raise HookError(f"{path!r} lies before block {layer}, where this run begins.")
        state = self._hooked_pass((), pre_hooks)
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
            chosen = [path for path in self.layout.available() if hooks(path)]
            if not chosen:
                raise HookError("The predicate chose none of the paths of available_hooks().")
            return chosen
        return [hooks] if isinstance(hooks, str) else list(hooks)


def _check_positions(positions: mx.array | None, shape: Sequence[int]) -> None:
    if positions is None:
        return
    batch, seq = shape[:2]
    if not isinstance(positions, mx.array) or tuple(positions.shape) != (batch,):
        raise HookError(f"positions must be an array of {batch} positions, one for each row.")
    if int(mx.min(positions)) < 0 or int(mx.max(positions)) >= seq:
        raise HookError(f"positions are {positions.tolist()}; the prompt has 0 to {seq - 1}.")


def _as_array(x: Any) -> mx.array:
    try:
        if isinstance(x, bytes | bytearray):  # MLX would take them for numbers
            raise TypeError
        return mx.array(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PromptError(
            f"{type(x).__name__} cannot be run; give a text, token ids, or an array of them."
        ) from error


def _replace_by(array: mx.array) -> Hook:
    def hook(inputs: tuple[Any, ...], output: Any, wrapper: HookWrapper) -> mx.array:
        return array

    return hook


def _gather(positions: mx.array) -> Hook:
    def hook(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return mx.take_along_axis(output, positions[:, None, None], axis=1)  # [batch, 1, d_model]

    return hook
