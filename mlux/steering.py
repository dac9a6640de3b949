"""Steering: adding a direction to the residual stream while the model reads and writes.

Two ways: with `generate_with_steering` the vector is added at every token of the prompt and of the
answer; with `build_deltas` and `prefill_steered` at chosen positions of the prompt only, after
which `generate_from_cache` writes on unsteered. What alpha means is in `mlux.methods.steering`.
"""

# First, so that the optimised BLAS is there before MLX.
from mlux.engine import HookedModel, sites

# isort: split
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlux.engine.prefilled import (
    generate_from_cache,
    generate_from_cache_stream,
    prefill_with_cache,
)
from mlux.errors import ParameterError
from mlux.methods.steering import (
    auto_calibrate_alpha,
    compute_steering_vector,
    compute_steering_vectors,
    create_additive_hook,
    create_steering_hook,
    steering_hooks,
    suggest_alpha,
)

__all__ = [
    "ContrastiveSteering",
    "auto_calibrate_alpha",
    "compute_steering_vector",
    "compute_steering_vectors",
    "create_additive_hook",
    "create_steering_hook",
    "generate_from_cache",
    "generate_from_cache_stream",
    "generate_with_steering",
    "prefill_with_cache",
    "steering_hooks",
    "suggest_alpha",
]


def generate_with_steering(
    hooked: HookedModel,
    prompt: Any,
    vector: mx.array,
    layer: int | Sequence[int],
    alpha: float = 1.0,
    max_tokens: int = 100,
    temperature: float = 0.0,
    **options: Any,
) -> Any:
    """What a model writes with a vector added after one block, or after several.

    Args:
        hooked: The model.
        prompt: As in `HookedModel.generate`; a list of prompts runs as a batch.
        vector: [d_model].
        layer: The block or blocks.
        alpha: The strength, at each of them.
        max_tokens: The most tokens to generate.
        temperature: 0 takes the most probable token.
        **options: As in `HookedModel.generate`.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> vector = compute_steering_vector(model, "it was wonderful", "it was terrible", 3)
        >>> prompt = "the capital of france is"
        >>> generate_with_steering(model, prompt, vector, layer=3, alpha=0.0, max_tokens=1)
        'paris'

    Returns:
        The text without the prompt; for a list of prompts the list of texts.
    """
    hooks = steering_hooks(layer, vector, alpha)
    return hooked.generate(prompt, max_tokens, temperature, hooks=hooks, **options)


class ContrastiveSteering:
    """A steering vector with its model and layer.

    Example:
        >>> steerer = ContrastiveSteering(HookedModel.from_pretrained("demo"), layer=3)
        >>> _ = steerer.set_contrast("the food was amazing", "the food was awful")
        >>> isinstance(steerer.generate("the food was", alpha=1.0, max_tokens=3), str)
        True

    Attributes:
        hooked: The model.
        layer: The block.
        steering_vector: [d_model]; None until it is set.
    """

    def __init__(self, hooked: HookedModel, layer: int) -> None:
        self.hooked = hooked
        self.layer = layer
        self.steering_vector: mx.array | None = None

    def set_contrast(
        self, positive: str | Sequence[str], negative: str | Sequence[str]
    ) -> mx.array:
        """Computes and keeps the vector; see `compute_steering_vector`."""
        vector = compute_steering_vector(self.hooked, positive, negative, self.layer)
        self.steering_vector = vector
        return vector

    def set_vector(self, vector: mx.array) -> None:
        """Keeps a vector [d_model] from elsewhere."""
        self.steering_vector = vector

    def generate(
        self,
        prompt: Any,
        alpha: float = 1.0,
        max_tokens: int = 100,
        temperature: float = 0.0,
        **options: Any,
    ) -> Any:
        """Text steered at every token; see `generate_with_steering`."""
        return generate_with_steering(
            self.hooked, prompt, self._vector(), self.layer, alpha, max_tokens, temperature,
            **options,
        )  # fmt: skip

    def build_deltas(self, prompt: Any, positions: Sequence[int], alpha: float = 1.0) -> mx.array:
        """Alpha times the vector at some positions of a prompt, else 0: [1, seq, d_model]."""
        seq = self.hooked.to_batch(prompt).tokens.shape[1]
        outside = [position for position in positions if not 0 <= position < seq]
        if outside:
            raise ParameterError(f"Position {outside[0]} is outside the prompt's 0 to {seq - 1}.")
        chosen = mx.zeros((1, seq, 1))
        for position in positions:
            chosen[0, position] = 1.0
        return chosen * (alpha * self._vector().astype(mx.float32))

    def prefill_steered(self, prompt: Any, deltas: mx.array) -> tuple[list[Any], mx.array]:
        """Reads a prompt with deltas added; see `prefill_with_cache`."""
        hooks = [(sites.resid_post(self.layer), create_additive_hook(deltas))]
        return prefill_with_cache(self.hooked, prompt, hooks)

    def generate_from_cache(
        self,
        cache: list[Any],
        logits: mx.array,
        max_tokens: int = 100,
        temperature: float = 0.0,
    ) -> str:
        """Writes on without steering; see the function of that name."""
        return generate_from_cache(
            self.hooked, cache, max_tokens, temperature, initial_logits=logits
        )

    def _vector(self) -> mx.array:
        if self.steering_vector is None:
            raise ParameterError("There is no steering vector yet: call set_contrast first.")
        return self.steering_vector
