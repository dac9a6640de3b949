"""The tuned lens: the logit lens after one affine map a layer, trained to predict what comes out.

Early layers hold what they know in another basis than the last one. For each layer ℓ a map

    translate(h) = h + A_ℓ h + b_ℓ

is trained by stochastic gradient descent on KL(final ‖ head(translate(h))), where head is the
model's own (final norm, unembedding, soft-cap) and stays as it is. It starts at A = 0, b = 0, which
is the logit lens. The last layer needs none. Source: Belrose et al. (2023), "Eliciting Latent
Predictions from Transformers with the Tuned Lens".
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from mlux.engine import HookedModel, sites
from mlux.engine.arrays import on_host
from mlux.engine.batching import pad
from mlux.engine.sums import total
from mlux.methods.lens import Translate
from mlux.methods.scores import log_probabilities
from mlux.steps import UNKEPT, Arrays, Steps

Parameters = dict[str, mx.array]
"""`weight` [d_model, d_model] and `bias` [d_model], float32."""

TRAINED = ("weight", "bias", "loss")
"""What the training of a layer gives; see `TunedLens`."""

ROWS = 16
"""Prompts in one pass that collects activations."""

MOST_KEPT = 1 << 29
"""Bytes that the model's own predictions may take; else every step makes those it needs."""

Final = Callable[[mx.array], mx.array]
"""fn(positions [n]) returns the log-probabilities [n, vocab_size] of the model's own prediction."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the maps are trained.

    Attributes:
        steps: Steps of Adam for each layer, with a rate that falls linearly to 0.
        positions: Positions in one step.
        learning_rate: The first step's.
        decay: Decoupled weight decay, towards the logit lens.
    """

    steps: int = 100
    positions: int = 64
    learning_rate: float = 1e-3
    decay: float = 0.01


@dataclass(frozen=True, kw_only=True)
class TunedLens:
    """Affine maps of all layers but the last.

    Attributes:
        weight: [n_layers − 1, d_model, d_model] float32, A of each layer.
        bias: [n_layers − 1, d_model] float32, b of each layer.
        loss: [n_layers − 1, steps] float32, of each step of the training, in nats;
            None of one that was not trained.
    """

    weight: mx.array
    bias: mx.array
    loss: mx.array | None = None

    def translate(self, layer: int, resid: mx.array) -> mx.array:
        """The residual stream after a block, as the last one would hold it: […, d_model]."""
        if layer >= self.weight.shape[0]:
            return resid
        return _translated({"weight": self.weight[layer], "bias": self.bias[layer]}, resid)


def train_tuned_lens(
    model: HookedModel,
    rows: Sequence[Sequence[int]],
    *,
    seed: int,
    training: Training | None = None,
    steps: Steps = UNKEPT,
    name: str = "translator",
) -> TunedLens:
    """Trains the maps on every position of some prompts, one layer after the other.

    Args:
        model: The model.
        rows: Token ids of the prompts.
        seed: Of the order in which positions are seen.
        training: How; by default `Training()`.
        steps: What keeps each layer's map with its loss at every step of Adam.
        name: What the steps are called, before the layer.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> rows = [model.tokenize("the capital of france is")]
        >>> lens = train_tuned_lens(model, rows, seed=0, training=Training(steps=2))
        >>> lens.weight.shape, lens.bias.shape
        ((5, 128, 128), (5, 128))
    """
    training = training or Training()
    *states, last = _states(model, rows)  # layer → [n_positions, d_model]
    final = cache(lambda: _final(model, last))
    maps = [
        steps.once(
            f"{name}.{layer}",
            partial(_train, model, resid, final, seed, training),
            partial(_said, layer),
        )
        for layer, resid in enumerate(states)
    ]
    return TunedLens(
        **{part: mx.array(np.stack([found[part] for found in maps])) for part in TRAINED}
    )


def translate_rows(lenses: Sequence[TunedLens], which: Sequence[int]) -> Translate:
    """What `logit_lens` applies so that each row of a batch is read by a lens of its own.

    Args:
        lenses: The lenses.
        which: For each row, the place of its lens.

    Example:
        >>> lens = TunedLens(
        ...     weight=mx.zeros((1, 2, 2)), bias=mx.array([[1.0, 0.0]]), loss=mx.zeros((1, 0))
        ... )
        >>> translate_rows([lens], [0])(0, mx.zeros((1, 1, 2))).tolist()
        [[[1.0, 0.0]]]
    """
    chosen = mx.array(list(which))[:, None, None]

    def translate(layer: int, resid: mx.array) -> mx.array:
        read = resid
        for place, lens in enumerate(lenses):
            read = mx.where(chosen == place, lens.translate(layer, resid), read)
        return read

    return translate


def tuned_loss(
    model: HookedModel, parameters: Parameters, resid: mx.array, final: mx.array
) -> mx.array:
    """Mean over positions of KL(final ‖ lens) in nats, a scalar.

    Args:
        model: The model.
        parameters: `weight` [d_model, d_model] and `bias` [d_model].
        resid: [n_positions, d_model], the residual stream after a block.
        final: [n_positions, vocab_size], log-probabilities of the model's own prediction.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> logits, cache = model.run_with_cache("mary lives in", hooks=["model.layers.5"])
        >>> nothing = {"weight": mx.zeros((128, 128)), "bias": mx.zeros(128)}
        >>> final = log_probabilities(logits[0])
        >>> float(tuned_loss(model, nothing, cache["model.layers.5"][0], final)) < 1e-5
        True
    """
    read = _translated(parameters, resid)[:, None]  # every position a row of its own
    found = log_probabilities(model.unembed(read)[:, 0])
    return mx.mean(total(mx.exp(final) * (final - found)))


def _translated(parameters: Parameters, resid: mx.array) -> mx.array:
    whole = resid.astype(mx.float32)
    moved = whole + whole @ parameters["weight"].T + parameters["bias"]
    return moved.astype(resid.dtype)


def _train(
    model: HookedModel,
    resid: mx.array,
    final: Callable[[], Final],
    seed: int,
    training: Training,
) -> Arrays:
    """Trains the map of one layer: `weight`, `bias` and the `loss` of every step."""
    width = resid.shape[-1]
    parameters = {"weight": mx.zeros((width, width)), "bias": mx.zeros(width)}
    rate = optim.linear_schedule(training.learning_rate, 0.0, training.steps)
    optimizer = optim.AdamW(learning_rate=rate, weight_decay=training.decay)
    step = mx.value_and_grad(lambda parameters, *rest: tuned_loss(model, parameters, *rest))
    losses = []
    for chosen in _minibatches(resid.shape[0], seed, training):
        loss, gradients = step(parameters, resid[chosen], final()(chosen))
        parameters = optimizer.apply_gradients(gradients, parameters)
        mx.eval(loss, parameters, optimizer.state)
        losses.append(loss)
    return {name: on_host(array) for name, array in parameters.items()} | {
        "loss": on_host(mx.stack(losses))
    }


def _said(layer: int, found: Arrays) -> str:
    first, last = found["loss"][0], found["loss"][-1]
    return f"translator after block {layer}: loss {first:.3g} at first, {last:.3g} in the end"


def _final(model: HookedModel, last: mx.array) -> Final:
    """What the model itself predicts at a position, made once where that fits into memory."""

    def predicted(resid: mx.array) -> mx.array:
        logprobs = log_probabilities(model.unembed(resid[:, None])[:, 0])
        mx.eval(logprobs)
        return logprobs

    n, at_once = last.shape[0], Training.positions
    if 4 * n * int(model.config["vocab_size"]) > MOST_KEPT:
        return lambda chosen: predicted(last[chosen])
    parts = [predicted(last[start : start + at_once]) for start in range(0, n, at_once)]
    kept = mx.concatenate(parts)
    return lambda chosen: kept[chosen]


def _minibatches(n: int, seed: int, training: Training) -> Iterator[mx.array]:
    """Positions of each step: all in random order, then again in another."""
    generator = np.random.default_rng(seed)
    waiting = generator.permutation(n)
    for _ in range(training.steps):
        if len(waiting) < min(n, training.positions):
            waiting = generator.permutation(n)
        yield mx.array(waiting[: training.positions])
        waiting = waiting[training.positions :]


def _states(model: HookedModel, rows: Sequence[Sequence[int]]) -> list[mx.array]:
    """The residual stream after each block at every position: layer → [n_positions, d_model]."""
    paths = [sites.resid_post(layer) for layer in range(len(model.layers))]
    found: list[list[mx.array]] = [[] for _ in paths]
    in_order = sorted(rows, key=len)
    for start in range(0, len(in_order), ROWS):
        batch = pad(in_order[start : start + ROWS])
        _, cache = model.run_with_cache(batch.tokens, hooks=paths, positions=batch.last)
        for layer, path in enumerate(paths):
            for row, length in enumerate(batch.lengths):
                found[layer].append(cache[path][row, :length])
    states = [mx.concatenate(parts) for parts in found]
    mx.eval(states)
    return states
