"""The tuned lens: its loss and gradient against NumPy, and that training helps on new text."""

import mlx.core as mx
import numpy as np
import pytest

from mlux import prompts
from mlux.engine import HookedModel, sites
from mlux.engine.arrays import to_numpy
from mlux.engine.trials import encode
from mlux.methods.scores import log_probabilities
from mlux.methods.tuned_lens import Training, TunedLens, train_tuned_lens, tuned_loss
from tests.engine.tiny import TOKENS, tiny


def rows_of(model: HookedModel, name: str, count: int) -> list[tuple[int, ...]]:
    return [encode(model, prompt).ids for prompt in prompts.load(name).prompts[:count]]


def losses(model: HookedModel, lens: TunedLens, rows: list[tuple[int, ...]]) -> list[float]:
    """The mean KL to the final prediction over all positions of some prompts, layer by layer."""
    n_layers = len(model.layers)
    paths = [sites.resid_post(layer) for layer in range(n_layers)]
    totals, count = np.zeros(n_layers - 1), 0
    for row in rows:
        logits, cache = model.run_with_cache(mx.array([row]), hooks=paths)
        final = log_probabilities(logits[0])
        for layer in range(n_layers - 1):
            parameters = {"weight": lens.weight[layer], "bias": lens.bias[layer]}
            totals[layer] += float(
                tuned_loss(model, parameters, cache[paths[layer]][0], final)
            ) * len(row)
        count += len(row)
    return list(totals / count)


def untrained(model: HookedModel) -> TunedLens:
    n, width = len(model.layers) - 1, model.config["d_model"]
    return TunedLens(weight=mx.zeros((n, width, width)), bias=mx.zeros((n, width)))


def numpy_loss(
    model: HookedModel, weight: np.ndarray, bias: np.ndarray, resid: np.ndarray, final: np.ndarray
) -> float:
    """The same in NumPy: affine map, RMSNorm, unembedding, softmax, KL."""
    norm = model.model.model.norm
    moved = resid + resid @ weight.T + bias
    rms = np.sqrt((moved**2).mean(axis=-1, keepdims=True) + norm.eps)
    logits = (moved / rms * to_numpy(norm.weight)) @ to_numpy(
        model.model.model.embed_tokens.weight
    ).T
    logits -= logits.max(axis=-1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return float((np.exp(final) * (final - logprobs)).sum(axis=-1).mean())


def test_loss_and_gradient_are_those_of_the_formula() -> None:
    model, generator = tiny("llama"), np.random.default_rng(0)
    logits, cache = model.run_with_cache(TOKENS[:1], hooks=[sites.resid_post(0)])
    resid, final = cache[sites.resid_post(0)][0], log_probabilities(logits[0])
    weight, bias = generator.normal(scale=0.1, size=(32, 32)), generator.normal(size=32)
    parameters = {"weight": mx.array(weight, mx.float32), "bias": mx.array(bias, mx.float32)}
    loss, gradients = mx.value_and_grad(lambda p: tuned_loss(model, p, resid, final))(parameters)
    host = (to_numpy(resid), to_numpy(final))
    assert float(loss) == pytest.approx(numpy_loss(model, weight, bias, *host), rel=1e-4)
    for row, column in ((0, 0), (3, 17), (31, 5)):
        nudge = np.zeros_like(weight)
        nudge[row, column] = 1e-4
        up, down = (numpy_loss(model, weight + s * nudge, bias, *host) for s in (1, -1))
        found = float(gradients["weight"][row, column])
        assert found == pytest.approx((up - down) / 2e-4, rel=1e-3, abs=1e-6)
    nudge = np.eye(32)[7] * 1e-4
    up, down = (numpy_loss(model, weight, bias + s * nudge, *host) for s in (1, -1))
    assert float(gradients["bias"][7]) == pytest.approx((up - down) / 2e-4, rel=1e-3, abs=1e-6)


def test_it_is_nearer_to_the_final_prediction_on_text_it_has_not_seen() -> None:
    """At every layer, on few-shot prompts of the built-in model."""
    model = HookedModel.from_pretrained("demo")
    seen = rows_of(model, "few_shot", 60)
    new = rows_of(model, "few_shot", 80)[60:]
    lens = train_tuned_lens(model, seen, seed=0, training=Training(steps=60))
    tuned, logit = losses(model, lens, new), losses(model, untrained(model), new)
    assert all(after <= before for after, before in zip(tuned, logit, strict=True))
    assert tuned[2] <= 0.5 * logit[2]
    assert mx.array_equal(lens.translate(5, mx.ones((1, 128))), mx.ones((1, 128)))


def test_the_same_seed_trains_the_same_maps() -> None:
    model = HookedModel.from_pretrained("demo")
    rows, training = rows_of(model, "facts", 12), Training(steps=3)
    first, again = (train_tuned_lens(model, rows, seed=1, training=training) for _ in range(2))
    other = train_tuned_lens(model, rows, seed=2, training=training)
    assert mx.array_equal(first.weight, again.weight)
    assert not mx.array_equal(first.weight, other.weight)


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "cohere"])
def test_it_learns_through_every_kind_of_head(name: str) -> None:
    """Soft-cap and tied embeddings (gemma2), LayerNorm and biases (gpt2), a scale (cohere)."""
    model = tiny(name)
    rows = [tuple(row) for row in TOKENS.tolist()]
    lens = train_tuned_lens(model, rows, seed=0, training=Training(steps=30, learning_rate=3e-3))
    tuned, logit = losses(model, lens, rows), losses(model, untrained(model), rows)
    assert all(after < before for after, before in zip(tuned, logit, strict=True))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_it_learns_in_half_precision(dtype: str) -> None:
    model = HookedModel.from_pretrained("demo", dtype=dtype)
    rows = rows_of(model, "facts", 6)
    lens = train_tuned_lens(model, rows, seed=0, training=Training(steps=8, positions=24))
    tuned, logit = losses(model, lens, rows), losses(model, untrained(model), rows)
    assert all(after < before for after, before in zip(tuned, logit, strict=True))
