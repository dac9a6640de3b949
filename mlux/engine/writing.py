"""Writing text with hooks, through mlx-lm's own generators."""

from collections.abc import Sequence
from typing import Any

from mlux.engine import generation
from mlux.engine.batching import encode_any
from mlux.engine.continuation import Completion
from mlux.engine.passes import Hook, PreHook
from mlux.engine.running import Running
from mlux.engine.sampling import Options
from mlux.errors import ModelError, ParameterError


class Writing(Running):
    """The part of `HookedModel` that generates."""

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
            >>> from mlux import HookedModel
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
        """Like `generate`, always for a list: token ids, texts and why each one ended.

        Example:
            >>> from mlux import HookedModel
            >>> model = HookedModel.from_pretrained("demo")
            >>> model.complete(["the capital of france is"], max_tokens=1)[0].text
            'paris'
        """
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
            >>> from mlux import HookedModel
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
