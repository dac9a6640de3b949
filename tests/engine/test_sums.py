"""Sums over vocabularies and long contexts against float64."""

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import log_softmax, logsumexp

from mlux.engine import sums
from mlux.engine.arrays import to_numpy
from mlux.engine.attention import AttentionCall
from mlux.methods import scores
from mlux.methods.attention_scores import _scored
from mlux.methods.contrast import contrast_logit_diff
from mlux.methods.lens import _read
from mlux.methods.refusal import refusal_score

SIZES = [2, 1000, 49_152, 50_257, 262_144]
Array = npt.NDArray[np.float32]


def logits(size: int, seed: int = 0) -> Array:
    """Two rows: one token nearly certain before a long tail, and none."""
    drawn = np.random.default_rng(seed).normal(0, 3, (2, size)).astype(np.float32)
    drawn[0, 1] = 24.0
    return drawn


def exact(values: Array) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = log_softmax(values.astype(np.float64), axis=-1)
    return found


@pytest.mark.parametrize("size", SIZES)
def test_probabilities_are_those_of_float64_whatever_the_vocabulary(size: int) -> None:
    values = logits(size)
    log_p = exact(values)
    rounding = 1e-6 * np.maximum(1, np.abs(log_p))
    assert (np.abs(to_numpy(scores.log_probabilities(mx.array(values))) - log_p) < rounding).all()
    certain = to_numpy(scores.answer_logprob(mx.array(values), 1))[0]
    assert abs(certain - log_p[0, 1]) < 1e-6
    softmax = sums.softmax(mx.array(values))
    for probabilities in (softmax, mx.exp(scores.log_probabilities(mx.array(values)))):
        assert np.abs(to_numpy(probabilities).sum(axis=-1) - 1).max() < 2e-6
    assert (
        np.abs(to_numpy(mx.exp(scores.log_probabilities(mx.array(values)))).sum(-1) - 1).max()
        < 1e-6
    )
    found = to_numpy(sums.log_sum_exp(mx.array(values)))
    np.testing.assert_allclose(found, logsumexp(values.astype(np.float64), axis=-1), rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_summed_over_a_vocabulary_is_that_of_float64(size: int) -> None:
    values, other = logits(size), logits(size, seed=1)
    log_p, log_q = exact(values), exact(other)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    found = scores.kl_divergence(mx.array(values), mx.array(other))
    np.testing.assert_allclose(to_numpy(found), kl, rtol=1e-6, atol=1e-6)
    lens_p, lens_q = (scores.log_probabilities(mx.array(rows))[:, None] for rows in (values, other))
    read = _read(0, lens_q, lens_p, mx.array([[[0]], [[0]]]), 1)
    np.testing.assert_allclose(to_numpy(read.kl_to_final)[:, 0], kl, rtol=1e-6, atol=1e-6)
    entropy = -(np.exp(log_q) * log_q).sum(axis=-1)
    np.testing.assert_allclose(to_numpy(read.entropy)[:, 0], entropy, rtol=1e-6, atol=1e-6)
    half = range(size // 2), range(size // 2, size)
    sides = [logsumexp(log_p[:, list(side)], axis=-1) for side in half]
    for score in (
        refusal_score(mx.array(values), list(half[0])),
        contrast_logit_diff(mx.array(values), *half),
    ):
        np.testing.assert_allclose(to_numpy(score), sides[0] - sides[1], rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("sinks", [None, mx.array([0.5])])
def test_patterns_over_a_long_context_are_those_of_float64(sinks: mx.array | None) -> None:
    mx.random.seed(0)
    q, k, v = (mx.random.normal((1, 1, n, 8)) for n in (3, 20_000, 20_000))
    call = AttentionCall(
        q=q, k=k, v=v, scale=8**-0.5, mask=None, sinks=sinks, softcap=None, fused=lambda _: v
    )
    values = to_numpy(q)[0, 0] @ to_numpy(k)[0, 0].T * 8**-0.5
    column = [] if sinks is None else [np.full((3, 1), 0.5)]
    expected = np.exp(log_softmax(np.concatenate([values, *column], axis=-1), axis=-1))[:, :20_000]
    for pattern in (call.pattern(), call.pattern_and_z()[0]):
        found = to_numpy(pattern)[0, 0]
        np.testing.assert_allclose(found, expected, rtol=3e-6)
        np.testing.assert_allclose(found.sum(axis=-1), expected.sum(axis=-1), rtol=1e-6)


def test_the_entropy_of_attention_over_a_long_context_is_that_of_float64() -> None:
    seq = 20_000
    pattern = mx.full((1, 1, 2, seq), 1 / seq)
    ones = mx.ones((1, 1, 2, seq))
    masks = dict.fromkeys(
        ("distance", "first_token", "previous_token", "repeated_token", "successor"), ones
    )
    found = _scored(pattern, masks | {"repeats": ones[..., 0]})
    assert found["entropy"].item() == pytest.approx(np.log(seq), rel=2e-6)  # MLX's log
    assert all(found[name].item() == pytest.approx(1.0, rel=1e-6) for name in masks)


def test_a_row_of_nothing_sums_to_nothing_and_gradients_are_the_probabilities() -> None:
    assert sums.log_sum_exp(mx.full((2, 3), -mx.inf)).tolist() == [-np.inf] * 2
    values = mx.array(logits(50_257)[0])
    gradient = mx.grad(lambda given: sums.log_sum_exp(given))(values)
    np.testing.assert_allclose(to_numpy(gradient), np.exp(exact(logits(50_257)))[0], rtol=1e-5)
