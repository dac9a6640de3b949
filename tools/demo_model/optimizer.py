"""Muon for the weight matrices, AdamW for embeddings and norms.

Muon: Jordan et al. 2024, with the update scale of Liu et al. 2025, "Muon is scalable for LLM
training". The early blocks' MLPs learn at a fraction of the rate: at equal rates they memorise
word pairs, everything is solved by the second block and the lens has nothing to show.
"""

import math
from dataclasses import dataclass

import mlx.core as mx

from tools.demo_model.network import Params


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate: linear warm-up, constant, linear decay to zero."""

    steps: int = 1500
    peak: float = 4e-3
    warmup: int = 100
    decay_share: float = 0.35

    def rate(self, step: int) -> float:
        """Rate at a step counted from 0."""
        up = (step + 1) / self.warmup
        down = (self.steps - step) / (self.decay_share * self.steps)
        return self.peak * min(1.0, up, down)


WEIGHT_DECAY = 0.3
MOMENTUM = 0.95
ADAM_BETAS = (0.9, 0.98)
ADAM_EPS = 1e-8
MLP_RATES = (0.05, 0.05, 0.3, 1.0, 1.0, 1.0)
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def rate_factor(name: str) -> float:
    """Learning-rate factor of one weight: below 1 for the MLPs of the early blocks."""
    if ".mlp." not in name:
        return 1.0
    return MLP_RATES[int(name.split(".")[2])]


def is_matrix(name: str) -> bool:
    """Whether Muon trains this weight."""
    return name.endswith("_proj.weight")


def initial_state(params: Params) -> Params:
    """Momentum of every matrix, and both Adam moments of everything else, all zero."""
    state: Params = {}
    for name, value in params.items():
        state["m." + name] = mx.zeros_like(value)
        if not is_matrix(name):
            state["v." + name] = mx.zeros_like(value)
    return state


def orthogonalise(stack: mx.array) -> mx.array:
    """Push the singular values of each matrix of `[n, rows, columns]` towards 1."""
    tall = stack.shape[1] > stack.shape[2]
    x = stack.swapaxes(1, 2) if tall else stack
    x = x / (mx.sqrt(mx.sum(x * x, axis=(1, 2), keepdims=True)) + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.swapaxes(1, 2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.swapaxes(1, 2) if tall else x


def update(
    params: Params, grads: Params, state: Params, rate: mx.array, step: mx.array
) -> tuple[Params, Params]:
    """One optimiser step; `rate` and `step` (from 1) are scalars. Returns new dictionaries."""
    new_params, new_state = _adam(params, grads, state, rate, step)
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name in filter(is_matrix, params):
        by_shape.setdefault(params[name].shape, []).append(name)
    for matrix_shape, names in by_shape.items():
        ahead = []
        for name in names:
            momentum = MOMENTUM * state["m." + name] + grads[name]
            new_state["m." + name] = momentum
            ahead.append(grads[name] + MOMENTUM * momentum)
        directions = orthogonalise(mx.stack(ahead))
        scale = 0.2 * math.sqrt(max(matrix_shape))
        for name, direction in zip(names, directions, strict=True):
            local = rate * rate_factor(name)
            new_params[name] = params[name] * (1 - local * WEIGHT_DECAY) - local * scale * direction
    return new_params, new_state


def _adam(
    params: Params, grads: Params, state: Params, rate: mx.array, step: mx.array
) -> tuple[Params, Params]:
    new_params: Params = {}
    new_state: Params = {}
    beta_m, beta_v = ADAM_BETAS
    for name, value in params.items():
        if is_matrix(name):
            continue
        m = beta_m * state["m." + name] + (1 - beta_m) * grads[name]
        v = beta_v * state["v." + name] + (1 - beta_v) * grads[name] * grads[name]
        new_state["m." + name], new_state["v." + name] = m, v
        ahead = (m / (1 - beta_m**step)) / (mx.sqrt(v / (1 - beta_v**step)) + ADAM_EPS)
        # Norm weights belong near 1, so only embeddings decay.
        decay = WEIGHT_DECAY if value.ndim == 2 else 0.0
        new_params[name] = value * (1 - rate * decay) - rate * ahead
    return new_params, new_state
