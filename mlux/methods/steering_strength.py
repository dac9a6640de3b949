"""How strongly to steer: an alpha from a vector, a model and its residual stream.

Alpha multiplies the vector, so what alpha does depends on the vector's length and on the residual
stream's at that layer. In units of the mean residual norm a strength means the same for every
vector, layer and model; `auto_calibrate_alpha` turns a fraction of it into an alpha, or finds the
alpha that reaches an effect.
"""

# First, so that the optimised BLAS is there before MLX.
from mlux.engine import HookedModel, HookWrapper, sites

# isort: split
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlux.engine.arrays import numbers
from mlux.engine.batching import TokenBatch
from mlux.engine.passes import Hook
from mlux.errors import ParameterError, UnknownNameError
from mlux.methods.directions import norm_of
from mlux.methods.residuals import Prompts, in_batches, residuals_from_end

EFFECTS = {"subtle": 0.5, "moderate": 1.0, "strong": 1.5}
"""The named strengths of `suggest_alpha`."""
USUAL_NORM = 50.0
"""The length of alpha times the vector that mlux 0.2 found moderate on models of 2 to 9B."""
STRONGEST = 4.0
"""In mean residual norms: beyond it, what the layer held itself no longer counts."""

Effect = Callable[[mx.array], Any]
"""fn(logits [prompts, vocab_size] at each prompt's last token) returns a number."""


def suggest_alpha(vector: mx.array, target_effect: str | float = "moderate") -> float:
    """A first guess at a strength from a vector's length alone, as mlux 0.2 made it.

    A named effect aims at a shift of 50 units times 0.5, 1 or 1.5, with the guess before that
    factor kept from 0.1 to 2. A number is the length that alpha times the vector shall have.
    `auto_calibrate_alpha` looks at the model too, and is the better choice.

    Args:
        vector: [d_model].
        target_effect: subtle, moderate, strong, or a length.

    Example:
        >>> suggest_alpha(mx.ones(100) * 10, "strong")
        0.75
    """
    norm = norm_of(vector)
    if not isinstance(target_effect, str):
        return float(target_effect) / norm
    if target_effect not in EFFECTS:
        raise UnknownNameError("effect", target_effect, EFFECTS)
    return min(max(USUAL_NORM / norm, 0.1), 2.0) * EFFECTS[target_effect]


def auto_calibrate_alpha(
    hooked: HookedModel,
    vector: mx.array,
    layer: int,
    prompts: Prompts,
    target: float = 0.5,
    *,
    effect: Effect | None = None,
    strongest: float = STRONGEST,
) -> float:
    """The alpha whose edit is a given fraction of the residual stream, or has a given effect.

    Without `effect`, alpha = target · mean‖resid_post‖ / ‖vector‖, over the prompts' last tokens.
    With it, the smallest alpha ≥ 0 (to 1 %) at which effect(logits) reaches the target, searched by
    doubling and bisection; both are comparable across vectors, layers and models.

    Args:
        hooked: The model.
        vector: [d_model].
        layer: The block after which the vector is added.
        prompts: Prompts like those to be steered: the validation set. The last token of each is
            measured.
        target: The fraction (around 0.5 most models change their mind and keep their language), or
            the effect to reach.
        effect: A function of the steered logits at each prompt's last token, [prompts,
            vocab_size]: an accuracy, a mean logit difference. It should rise with alpha.
        strongest: The largest strength to try, in mean residual norms.

    Raises:
        ParameterError: If the vector is zero, or no strength up to that reaches the effect.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> auto_calibrate_alpha(model, mx.ones(128), 3, ["the food was"], target=0.0)
        0.0
        >>> yes, no = model.tokenize("superb bland", add_bos=False)
        >>> prefers = lambda logits: mx.mean(logits[:, yes] - logits[:, no])
        >>> vector = model.model.model.embed_tokens(mx.array([yes, no]))
        >>> alpha = auto_calibrate_alpha(
        ...     model, vector[0] - vector[1], 3, ["the food was"], target=2.0, effect=prefers
        ... )
        >>> 0 < alpha < 100
        True
    """
    per_norm = mean_residual_norm(hooked, prompts, layer) / norm_of(vector)
    if effect is None:
        return float(target) * per_norm
    steered, per_unit = SteeredLogits(hooked, prompts, layer), per_norm * vector.astype(mx.float32)
    found = least_strength(
        lambda strength: float(effect(steered.under({layer: strength * per_unit}))),
        target,
        strongest,
    )
    if not found.reached:
        raise ParameterError(
            f"No strength up to {strongest:g} residual norms reaches an effect of {target:g}; the "
            f"most is {found.effect:.3g}, at {found.strength:g}. Take another layer or a lower "
            "target."
        )
    return found.strength * per_norm


def mean_residual_norm(hooked: HookedModel, prompts: Prompts, layer: int) -> float:
    """The mean length of the residual stream after a block at the prompts' last tokens.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> 5 < mean_residual_norm(model, ["the food was", "mary lives in"], 3) < 40
        True
    """
    lengths = mx.linalg.norm(residuals_from_end(hooked, prompts, [layer])[layer], axis=-1)
    norm: float = numbers(mx.mean(lengths))
    return norm


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A strength and its effect.

    Attributes:
        strength: The smallest that reaches the target, or the one with the largest effect.
        effect: The effect there.
        reached: Whether that is the target or more.
    """

    strength: float
    effect: float
    reached: bool


def least_strength(
    effect: Callable[[float], float], target: float, strongest: float = STRONGEST
) -> Calibration:
    """The smallest strength ≥ 0 at which an effect reaches its target, to 1 %.

    Strengths are doubled from a 64th of the strongest on until one reaches it, and the last step is
    bisected: too much of a vector breaks a model, so the effect need not rise all the way.

    Args:
        effect: The effect of a strength.
        target: What it shall be at least.
        strongest: The largest strength to try.

    Example:
        >>> round(least_strength(lambda strength: strength**2, 0.25).strength, 2)
        0.5
    """
    seen = {0.0: effect(0.0)}
    doubled = [strongest / 2**step for step in range(6, -1, -1)]
    low = high = 0.0
    while seen[high] < target and doubled:
        low, high = high, doubled.pop(0)
        seen[high] = effect(high)
    if seen[high] < target:
        best = max(seen, key=lambda strength: seen[strength])
        return Calibration(strength=best, effect=seen[best], reached=False)
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        seen[middle] = effect(middle)
        low, high = (low, middle) if seen[middle] >= target else (middle, high)
    return Calibration(strength=high, effect=seen[high], reached=True)


class SteeredLogits:
    """Prompts that were read up to a block once, to be finished under many strengths.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> steered = SteeredLogits(model, ["the food was", "mary"], first=2)
        >>> steered.under({2: mx.ones(128), 3: mx.ones((2, 128))}).shape
        (2, 1466)
    """

    def __init__(self, hooked: HookedModel, prompts: Prompts, first: int) -> None:
        self.hooked = hooked
        self.first = first
        path = sites.resid_pre(first)
        self._read: list[tuple[TokenBatch, mx.array]] = [
            (batch, hooked.run_with_cache(batch.tokens, [path], positions=batch.last)[1][path])
            for batch in in_batches(hooked, prompts)
        ]

    def under(self, added: Mapping[int, mx.array]) -> mx.array:
        """Logits [prompts, vocab_size] at the last tokens, float32.

        Args:
            added: What is added after which block, not before the first: [d_model], or [prompts,
                d_model] with something for each prompt.
        """
        start, found = 0, []
        for batch, resid in self._read:
            rows = slice(start, start + len(batch.lengths))
            logits, _ = self.hooked.run_from(
                self.first,
                resid,
                hooks=[
                    (sites.resid_post(layer), _add(vectors if vectors.ndim == 1 else vectors[rows]))
                    for layer, vectors in added.items()
                ],
                positions=batch.last,
                tokens=batch.tokens,
            )
            found.append(logits[:, 0].astype(mx.float32))
            start = rows.stop
        logits = mx.concatenate(found)
        mx.eval(logits)
        return logits


def _add(vectors: mx.array) -> Hook:
    """Adds [d_model], or [rows, d_model] to each row its own, at every position."""
    broadcast = vectors if vectors.ndim == 1 else vectors[:, None]

    def add(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return output + broadcast.astype(output.dtype)

    return add
