"""Scores of predictions against their definitions in NumPy and SciPy."""

import mlx.core as mx
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

from mlux.engine import HookedModel
from mlux.methods import scores

LOGITS = np.random.default_rng(0).normal(scale=5, size=(4, 50)).astype(np.float32)
OTHER = np.random.default_rng(1).normal(scale=5, size=(4, 50)).astype(np.float32)


def test_logit_difference_and_log_probability_are_those_of_the_definition() -> None:
    logits, tokens = mx.array(LOGITS), mx.array([3, 1, 4, 1])
    rows = np.arange(4)
    assert scores.logit_diff(logits, tokens, 7).tolist() == pytest.approx(
        (LOGITS[rows, [3, 1, 4, 1]] - LOGITS[:, 7]).tolist()
    )
    expected = log_softmax(LOGITS.astype(np.float64), axis=-1)
    assert np.allclose(scores.log_probabilities(logits), expected, atol=1e-5)
    assert np.allclose(
        scores.answer_logprob(logits, tokens), expected[rows, [3, 1, 4, 1]], atol=1e-5
    )


def test_the_rank_counts_what_is_at_least_as_probable() -> None:
    ranks = scores.answer_rank(mx.array(LOGITS), 7).tolist()
    assert ranks == [int((row >= row[7]).sum()) - 1 for row in LOGITS]
    assert scores.answer_rank(mx.zeros((1, 5)), 2).tolist() == [4]


def test_kl_is_scipys_and_zero_for_equal_predictions() -> None:
    p, q = (np.exp(log_softmax(x.astype(np.float64), axis=-1)) for x in (LOGITS, OTHER))
    found = scores.kl_divergence(mx.array(LOGITS), mx.array(OTHER))
    assert np.allclose(found, rel_entr(p, q).sum(axis=-1), rtol=1e-4)
    assert scores.kl_divergence(mx.array(LOGITS), mx.array(LOGITS)).tolist() == [0.0] * 4
    one = scores.kl_divergence(mx.array(LOGITS[0]), mx.array(OTHER))
    assert float(one[0]) == pytest.approx(float(found[0]), rel=1e-5)


def test_half_precision_logits_are_judged_in_float32() -> None:
    logits = mx.array([[20.0, 12.0, 0.0]]).astype(mx.float16)
    assert float(scores.answer_logprob(logits, 0)[0]) == pytest.approx(-0.000335, rel=2e-3)


def test_scored_logits_are_those_of_the_position() -> None:
    model = HookedModel.from_pretrained("demo")
    batch = model.to_batch(["mary lives in", "the capital of france is"])
    found = scores.scored_logits(model, batch.tokens, batch.last)
    whole = model.forward(batch.tokens)
    assert mx.allclose(found[0], whole[0, 3], atol=1e-4)
    assert mx.allclose(found[1], whole[1, 5], atol=1e-4)
