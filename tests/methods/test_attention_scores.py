"""What heads attend to, against loops over every query and key."""

import math

import mlx.core as mx
import numpy as np
import pytest

from mlux.engine import HookedModel
from mlux.engine.arrays import to_numpy
from mlux.errors import PromptError
from mlux.methods.attention_scores import AttentionScores, attention_scores
from tests.engine.architectures import build

TOKENS = [[3, 5, 7, 5, 3, 5, 9, 7], [2, 4, 6, 8, 10, 12, 14, 16]]


def slow(pattern: np.ndarray, ids: list[int]) -> dict[str, float]:
    """One head of one prompt, by the definitions."""
    sums: dict[str, list[float]] = {}
    for i in range(1, len(ids)):
        weights = [float(weight) for weight in pattern[i, : i + 1]]
        earlier = [j for j in range(i) if ids[j] == ids[i]]
        one = {
            "entropy": -sum(w * math.log(w) for w in weights if w > 0),
            "distance": sum(w * (i - j) for j, w in enumerate(weights)),
            "first_token": weights[0],
            "previous_token": weights[i - 1],
        }
        if earlier:
            one["repeated_token"] = sum(weights[j] for j in earlier)
            one["successor"] = sum(weights[j + 1] for j in earlier)
        for name, value in one.items():
            sums.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in sums.items()}


# Soft-capped attention (gemma2), sliding windows and sinks (gpt_oss), shared heads (llama), linear
# attention in some blocks (qwen3_next).
@pytest.mark.parametrize("name", ["demo", "llama", "gemma2", "gpt_oss", "qwen3_next"])
def test_scores_are_those_of_the_definition(name: str) -> None:
    model = HookedModel.from_pretrained("demo") if name == "demo" else build(name)
    tokens = mx.array(TOKENS)
    patterns = model.get_attention_patterns(tokens)
    found = list(attention_scores(model, tokens))
    assert [scores.layer for scores in found] == sorted(patterns)
    for scores in found:
        pattern = to_numpy(patterns[scores.layer])
        for row, ids in enumerate(TOKENS):
            for head in range(pattern.shape[1]):
                for metric, value in slow(pattern[row, head], ids).items():
                    at = float(getattr(scores, metric)[row, head])
                    assert at == pytest.approx(value, abs=2e-4), (metric, scores.layer, head)


def test_a_prompt_without_repetition_has_no_repeated_token() -> None:
    (scores, *_) = attention_scores(HookedModel.from_pretrained("demo"), mx.array(TOKENS))
    assert not np.isnan(to_numpy(scores.repeated_token)[0]).any()
    assert np.isnan(to_numpy(scores.repeated_token)[1]).all()
    assert np.isnan(to_numpy(scores.successor)[1]).all()


def test_patterns_are_kept_when_they_are_asked_for() -> None:
    model, tokens = HookedModel.from_pretrained("demo"), mx.array(TOKENS)
    patterns = model.get_attention_patterns(tokens)
    kept = list(attention_scores(model, tokens, patterns=True))
    for scores in kept:
        assert isinstance(scores, AttentionScores)
        assert scores.pattern is not None
        assert mx.array_equal(scores.pattern, patterns[scores.layer])
    assert next(iter(attention_scores(model, tokens))).pattern is None


def test_looking_changes_not_one_bit() -> None:
    model, tokens = HookedModel.from_pretrained("demo"), mx.array(TOKENS)
    before = model.forward(tokens)
    list(attention_scores(model, tokens))
    assert mx.array_equal(model.forward(tokens), before)


def test_a_single_token_is_refused() -> None:
    with pytest.raises(PromptError, match="from the second token on; this prompt has one"):
        next(attention_scores(HookedModel.from_pretrained("demo"), mx.array([[3]])))
