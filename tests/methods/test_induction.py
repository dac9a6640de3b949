"""Induction scores against their definitions, and the built-in model's known heads."""

import random
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlux import prompts
from mlux.engine import HookedModel, sites
from mlux.engine.arrays import to_numpy
from mlux.engine.trials import PromptBatch, Trial, encode
from mlux.methods.ablation import Head, logits_without
from mlux.methods.induction import (
    InductionScores,
    induction_scores,
    measure_induction,
    second_repeat_accuracy,
)
from mlux.registry import get

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from tiny import tiny  # the tiny models of the engine's tests

PERIOD = 20


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return HookedModel.from_pretrained("demo")


@pytest.fixture(scope="module")
def tokens(model: HookedModel) -> mx.array:
    experiment = get("induction_heads")
    assert callable(experiment.prompts)
    made = experiment.prompts(model, experiment.config(n_sequences=24, period=PERIOD), 0)
    trials = [Trial(number=i, encoded=encode(model, prompt)) for i, prompt in enumerate(made)]
    return PromptBatch(trials, {}).clean.tokens


@pytest.fixture(scope="module")
def scores(model: HookedModel, tokens: mx.array) -> list[InductionScores]:
    return induction_scores(model, tokens, period=PERIOD)


def test_the_sequences_repeat_words_of_the_vocabulary(model: HookedModel, tokens: mx.array) -> None:
    assert tokens.shape == (24, 2 * PERIOD + 1)
    assert mx.array_equal(tokens[:, 1 : PERIOD + 1], tokens[:, PERIOD + 1 :])
    assert mx.all(tokens[:, 0] == model.tokenizer.bos_token_id)
    for row in tokens[:, 1 : PERIOD + 1].tolist():
        assert len(set(row)) == PERIOD
        assert not set(row) & set(model.tokenizer.all_special_ids)


def test_attention_scores_equal_their_definition(
    model: HookedModel, tokens: mx.array, scores: list[InductionScores]
) -> None:
    patterns = model.get_attention_patterns(tokens)
    seq = tokens.shape[1]
    for layer, score in enumerate(scores):
        pattern = to_numpy(patterns[layer])
        prefix = [pattern[:, :, i, i - PERIOD + 1] for i in range(seq - PERIOD, seq)]
        duplicate = [pattern[:, :, i, i - PERIOD] for i in range(seq - PERIOD, seq)]
        previous = [pattern[:, :, i, i - 1] for i in range(1, seq)]
        np.testing.assert_allclose(to_numpy(score.prefix_matching), np.mean(prefix, axis=0), 1e-4)
        np.testing.assert_allclose(to_numpy(score.previous_token), np.mean(previous, axis=0), 1e-4)
        np.testing.assert_allclose(
            to_numpy(score.duplicate_token), np.mean(duplicate, axis=0), 1e-4, 1e-7
        )


def test_accuracy_is_of_the_same_pass(model: HookedModel, tokens: mx.array) -> None:
    found = measure_induction(model, tokens, period=PERIOD)
    alone = second_repeat_accuracy(model.forward(tokens), tokens, period=PERIOD)
    assert mx.array_equal(found.accuracy, alone)


def test_copying_equals_a_slow_twin(
    model: HookedModel, tokens: mx.array, scores: list[InductionScores]
) -> None:
    """The head's own path through the output projection, the norm and the head, by token."""
    layer, head = ranked(scores, "copying")[0][1]
    last = sites.resid_post(5)
    block = model.layers[layer]
    _, cache = model.run_with_cache(
        tokens[:1], hooks=[last, sites.tap(layer, "z"), sites.tap(layer, "pattern")]
    )
    z = cache[sites.tap(layer, "z")]
    alone = mx.zeros_like(z)
    alone[:, head] = z[:, head]
    added = block.self_attn.o_proj(alone.transpose(0, 2, 1, 3).reshape(1, tokens.shape[1], -1))
    stream, inner = to_numpy(cache[last])[0], model.model.model
    scale = np.sqrt((stream**2).mean(axis=-1, keepdims=True) + inner.norm.eps)  # held
    normed = to_numpy(added)[0] / scale * to_numpy(inner.norm.weight)
    head_weight = model.model.lm_head if "lm_head" in model.model else inner.embed_tokens
    push = normed @ to_numpy(head_weight.weight).T
    pattern = to_numpy(cache[sites.tap(layer, "pattern")])[0, head]
    ids = tokens[0].tolist()
    on_source = total = 0.0
    for i in range(len(ids) - PERIOD, len(ids)):
        centred = push[i] - push[i].mean()
        on_source += max(0.0, centred[ids[int(pattern[i].argmax())]])
        total += sum(max(0.0, centred[token]) for token in set(ids))
    expected = 2 * on_source / total - 1
    assert float(scores[layer].copying[0, head]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
def test_copying_is_a_share_whatever_is_attended_to(family: str) -> None:
    """Also where nothing repeats, so that heads attend to tokens of the second half, or twice."""
    generator = random.Random(1)
    period = 6
    rows = [generator.sample(range(101), 2 * period) for _ in range(16)]
    rows += [[generator.randrange(4) for _ in range(2 * period)] for _ in range(16)]
    for score in induction_scores(tiny(family), mx.array(rows), period=period):
        copying = to_numpy(score.copying)
        assert copying.shape == (32, 4)
        assert copying.min() >= -1 - 1e-6
        assert copying.max() <= 1 + 1e-6


def accuracy(model: HookedModel, tokens: mx.array, heads: list[Head]) -> float:
    logits = logits_without(model, tokens, heads)
    return float(mx.mean(second_repeat_accuracy(logits, tokens, period=PERIOD)))


def ranked(scores: list[InductionScores], name: str) -> list[tuple[float, Head]]:
    """Heads by a score, best first."""
    return sorted(
        (
            (float(value), (score.layer, head))
            for score in scores
            for head, value in enumerate(to_numpy(getattr(score, name)).mean(axis=0))
        ),
        reverse=True,
    )


def trained_words(model: HookedModel) -> mx.array:
    """Sequences of the words that the built-in model saw repeated: nouns, verbs, adjectives."""
    words = sorted({w for p in prompts.load("induction").prompts for w in p.text.split()})
    generator = random.Random(0)
    stretches = [generator.sample(words, PERIOD) for _ in range(24)]
    return model.to_batch([" ".join(stretch * 2) for stretch in stretches]).tokens


def test_the_built_in_model_has_induction_heads_and_needs_them(
    model: HookedModel, tokens: mx.array, scores: list[InductionScores]
) -> None:
    """On words that it saw repeated, and on any words of its vocabulary."""
    induction = ranked(scores, "prefix_matching")
    assert induction[0][0] >= 0.5
    shared = induction[1][0] >= 0.4  # two heads that share the work are ablated together
    top = [head for _, head in induction[: 2 if shared else 1]]
    trained = trained_words(model)
    assert accuracy(model, trained, []) >= 0.97
    for sequences in (trained, tokens):
        whole = accuracy(model, sequences, [])
        assert whole - accuracy(model, sequences, top) >= 0.6
        costs = [whole - accuracy(model, sequences, [head]) for _, head in induction]
        assert float(np.median(costs)) <= 0.05


def test_the_built_in_model_has_a_previous_token_head_before_them(
    model: HookedModel, tokens: mx.array, scores: list[InductionScores]
) -> None:
    (score, previous), (next_score, _) = ranked(scores, "previous_token")[:2]
    assert score >= 0.6
    assert score > next_score
    assert previous[0] < ranked(scores, "prefix_matching")[0][1][0]
