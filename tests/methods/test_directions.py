"""Directions: learned as NumPy would, drawn evenly, and taken out of every residual write."""

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlux.engine import HookedModel, sites
from mlux.engine.arrays import to_numpy
from mlux.errors import ParameterError
from mlux.methods import directions

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from architectures import build  # every architecture, tiny
from tiny import CONFIGS, TOKENS, tiny

RNG = np.random.default_rng(0)
POSITIVE = RNG.normal(size=(12, 8)) + np.arange(8) / 4
NEGATIVE = RNG.normal(size=(12, 8))


def as_mx(array: np.ndarray) -> mx.array:
    return mx.array(array.astype(np.float32))


def test_the_difference_of_means_is_numpys() -> None:
    found = directions.difference_of_means(as_mx(POSITIVE), as_mx(NEGATIVE[:5]))
    assert np.allclose(found, POSITIVE.mean(0) - NEGATIVE[:5].mean(0), atol=1e-5)
    one_pair = directions.difference_of_means(as_mx(POSITIVE[:1]), as_mx(NEGATIVE[:1]))
    assert np.allclose(one_pair, POSITIVE[0] - NEGATIVE[0], atol=1e-5)  # ActAdd


def test_the_principal_difference_is_the_top_eigenvector_whatever_the_order_within_pairs() -> None:
    differences = POSITIVE - NEGATIVE
    top = np.linalg.eigh(differences.T @ differences)[1][:, -1]
    top *= np.sign(top @ differences.mean(0))
    found = directions.principal_difference(as_mx(POSITIVE), as_mx(NEGATIVE))
    assert np.allclose(found, top, atol=1e-4)
    swapped = RNG.random((12, 1)) < 0.5  # Zou et al. draw which of a pair comes first
    mixed = directions.principal_difference(
        as_mx(np.where(swapped, NEGATIVE, POSITIVE)), as_mx(np.where(swapped, POSITIVE, NEGATIVE))
    )
    assert abs(float(mx.sum(found * mixed))) == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(ParameterError, match="there are 12 and 5"):
        directions.principal_difference(as_mx(POSITIVE), as_mx(NEGATIVE[:5]))


def test_the_probe_is_logistic_regression_by_plain_gradient_descent() -> None:
    both = np.concatenate([POSITIVE, NEGATIVE])
    x = both - both.mean(0)
    x /= np.linalg.norm(x, axis=1).mean()
    y = np.repeat([1.0, 0.0], 12)
    weights, bias = np.zeros(8), 0.0
    for _ in range(20_000):
        error = 1 / (1 + np.exp(-(x @ weights + bias))) - y
        weights -= 0.05 * (x.T @ error + weights)  # L2 with C = 1, the bias free
        bias -= 0.05 * error.sum()
    found = directions.probe_direction(as_mx(POSITIVE), as_mx(NEGATIVE))
    assert np.allclose(found, weights / np.linalg.norm(weights), atol=1e-3)


def test_random_directions_are_unit_seeded_and_almost_orthogonal() -> None:
    drawn = [directions.random_direction(512, seed) for seed in range(20)]
    assert all(float(mx.linalg.norm(one)) == pytest.approx(1.0, abs=1e-5) for one in drawn)
    assert mx.array_equal(drawn[3], directions.random_direction(512, 3))
    cosines = to_numpy(mx.stack(drawn)) @ to_numpy(mx.stack(drawn)).T
    assert np.abs(cosines - np.eye(20)).max() < 0.2


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_what_is_left_is_orthogonal_and_keeps_its_dtype(dtype: mx.Dtype) -> None:
    x, r = as_mx(POSITIVE).astype(dtype), as_mx(NEGATIVE[0])
    left = directions.without_direction(x, r)
    assert left.dtype == dtype
    exact, unit = to_numpy(x), NEGATIVE[0] / np.linalg.norm(NEGATIVE[0])
    expected = np.stack([row - (row @ unit) * unit for row in exact])
    assert np.allclose(to_numpy(left), expected, atol=4 * float(mx.finfo(dtype).eps) * 3)
    with pytest.raises(ParameterError, match="is zero"):
        directions.without_direction(x, r * 0)


HYBRIDS = ("jamba", "falcon_h1", "qwen3_next", "lfm2", "mamba2", "recurrent_gemma")


@pytest.mark.parametrize("name", [*CONFIGS, *HYBRIDS])
def test_ablation_keeps_the_direction_out_of_the_stream_on_any_architecture(name: str) -> None:
    model = tiny(name) if name in CONFIGS else build(name)
    direction = directions.random_direction(model.config["d_model"], 1)
    kept: dict[str, mx.array] = {}

    def keep(inputs: object, output: mx.array, wrapper: object) -> None:
        kept[wrapper.path] = output  # type: ignore[attr-defined] # a HookWrapper

    streams = [sites.resid_post(layer) for layer in range(len(model.layers))]
    hooks = directions.ablate_direction(model, direction)
    logits = model.run_with_hooks(TOKENS, hooks=[*hooks, *((path, keep) for path in streams)])
    assert not mx.allclose(logits, model.forward(TOKENS), atol=1e-3)
    for path in streams:
        share = mx.max(mx.abs(kept[path] @ direction)) / mx.max(mx.linalg.norm(kept[path], axis=-1))
        assert float(share) < 1e-4, path


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_ablation_in_bfloat16_stays_bfloat16(name: str) -> None:
    module = tiny.__wrapped__(name).model
    module.set_dtype(mx.bfloat16)
    model = HookedModel(module, None, config=CONFIGS[name])
    direction = directions.random_direction(model.config["d_model"], 1)
    hooks = directions.ablate_direction(model, direction)
    _, cache = model.run_with_cache(TOKENS, hooks=[sites.resid_post(1)])
    assert cache[sites.resid_post(1)].dtype == mx.bfloat16
    plain = model.forward(TOKENS)
    assert model.run_with_hooks(TOKENS, hooks=hooks).dtype == plain.dtype
