"""Reading a prompt and writing on in two steps, with the key-value cache in between."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import mlx.core as mx

from mlux.engine.arrays import integers
from mlux.engine.generation import detokenizer, end_tokens
from mlux.engine.model import HookedModel
from mlux.engine.passes import Hook
from mlux.engine.sampling import Options
from mlux.engine.sums import log_softmax
from mlux.errors import ParameterError

Hooks = Sequence[tuple[str, Hook]]


def prefill_with_cache(
    hooked: HookedModel, prompt: Any, hooks: Hooks | None = None
) -> tuple[list[Any], mx.array]:
    """Reads a prompt, with hooks if they are given, and keeps the key-value cache.

    Args:
        hooked: The model.
        prompt: As in `HookedModel.run_with_hooks`, one prompt.
        hooks: As in `HookedModel.run_with_hooks`.

    Returns:
        mlx-lm's cache, one entry a layer, and the logits [1, seq, vocab_size].

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> cache, logits = prefill_with_cache(model, "the capital of france is")
        >>> len(cache), logits.shape
        (6, (1, 6, 1466))
    """
    from mlx_lm.models.cache import make_prompt_cache

    cache: list[Any] = make_prompt_cache(hooked.model)
    logits = hooked.run_with_hooks(prompt, hooks=hooks or (), cache=cache)
    mx.eval([layer.state for layer in cache])
    return cache, logits


def generate_from_cache(
    hooked: HookedModel,
    cache: list[Any],
    max_tokens: int = 100,
    temperature: float = 0.0,
    hooks: Hooks | None = None,
    initial_logits: mx.array | None = None,
) -> str:
    """Writes on from a cache that `prefill_with_cache` filled, which stays as it is.

    Args:
        hooked: The model.
        cache: The cache.
        max_tokens: The most tokens to generate.
        temperature: 0 takes the most probable token.
        hooks: Hooks on the generated tokens.
        initial_logits: The logits of the prompt, [1, seq, vocab_size].

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> cache, logits = prefill_with_cache(model, "the capital of france is")
        >>> generate_from_cache(model, cache, max_tokens=1, initial_logits=logits)
        'paris'

    Raises:
        ParameterError: Without `initial_logits`: nothing else says what the first token is.
    """
    pieces = generate_from_cache_stream(
        hooked, cache, max_tokens, temperature, hooks, initial_logits
    )
    return "".join(pieces)


def generate_from_cache_stream(
    hooked: HookedModel,
    cache: list[Any],
    max_tokens: int = 100,
    temperature: float = 0.0,
    hooks: Hooks | None = None,
    initial_logits: mx.array | None = None,
) -> Iterator[str]:
    """Like `generate_from_cache`, piece by piece."""
    if initial_logits is None:
        raise ParameterError("initial_logits are missing: prefill_with_cache returns them.")
    options = Options(max_tokens=max_tokens, temperature=temperature)
    last = initial_logits.reshape(-1, initial_logits.shape[-1])[-1:]
    draw = options.sampler(hooked.config["vocab_size"])
    first = integers(draw(log_softmax(last)))[0]
    ends = end_tokens(hooked.tokenizer)
    if first in ends:
        return
    text = detokenizer(hooked.tokenizer)
    text.add_token(first)
    yield text.last_segment
    if max_tokens > 1:
        rest = hooked.stream(
            [first],
            max_tokens=max_tokens - 1,
            temperature=temperature,
            hooks=hooks or (),
            prompt_cache=deepcopy(cache),
        )
        for chunk in rest:
            if chunk.token_id not in ends:
                text.add_token(chunk.token_id)
                yield text.last_segment
    text.finalize()
    yield text.last_segment
