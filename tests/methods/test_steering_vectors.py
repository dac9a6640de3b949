"""Steering vectors, strengths and texts against plain loops, one prompt and one token at a time."""

import math
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlux import prompts, steering
from mlux.engine import HookedModel, sites
from mlux.engine.arrays import numbers, to_numpy
from mlux.errors import ParameterError, PromptError, UnknownNameError
from mlux.methods import contrast, steering_fit, text_quality
from mlux.methods.residuals import residuals_from_end
from mlux.methods.steering_strength import SteeredLogits, least_strength, mean_residual_norm

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from architectures import build  # every architecture, tiny
from tiny import CONFIGS, TOKENS, tiny

GOOD = ["i gladly told everyone about the", "i happily told everyone about the", "it was"]
BAD = ["i sadly told everyone about the", "i angrily told everyone about the", "the food was"]


@cache
def demo() -> HookedModel:
    return HookedModel.from_pretrained("demo")


def at_end(text: str, layer: int, back: int = 1) -> np.ndarray:
    path = sites.resid_post(layer)
    return to_numpy(demo().run_with_cache(text, hooks=[path])[1][path][0, -back])


def test_residuals_are_read_from_each_prompts_own_end() -> None:
    found = residuals_from_end(demo(), [*GOOD, *BAD], [1, 4], [-2, -1])
    for layer in (1, 4):
        for row, text in enumerate([*GOOD, *BAD]):
            alone = [at_end(text, layer, 2), at_end(text, layer, 1)]
            assert np.allclose(found[layer][row], alone, atol=1e-3)


def test_vectors_of_many_layers_are_those_of_each_alone() -> None:
    together = steering.compute_steering_vectors(demo(), GOOD, BAD)
    assert sorted(together) == [0, 1, 2, 3, 4, 5]
    for layer in (2, 4):
        alone = steering.compute_steering_vector(demo(), GOOD, BAD, layer)
        assert mx.allclose(together[layer], alone, atol=1e-4)
        plain = np.mean([at_end(t, layer) for t in GOOD], 0)
        plain -= np.mean([at_end(t, layer) for t in BAD], 0)
        assert np.allclose(together[layer], plain, atol=1e-3)


def test_each_method_finds_what_numpy_finds() -> None:
    pairs = np.stack([at_end(g, 4) - at_end(b, 4) for g, b in zip(GOOD, BAD, strict=True)])
    top = np.linalg.eigh(pairs.T @ pairs)[1][:, -1]
    found = steering.compute_steering_vector(demo(), GOOD, BAD, 4, "pca")
    assert abs(float((to_numpy(found) * top).sum())) == pytest.approx(1.0, abs=1e-3)
    probe = steering.compute_steering_vector(demo(), GOOD[:2], BAD[:2], 4, method="probe")
    margins = {text: float((to_numpy(probe) * at_end(text, 4)).sum()) for text in [*GOOD, *BAD]}
    assert min(margins[text] for text in GOOD[:2]) > max(margins[text] for text in BAD[:2])
    with pytest.raises(UnknownNameError, match="Did you mean 'mean'"):
        steering.compute_steering_vector(demo(), GOOD, BAD, 4, "maen")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "jamba", "falcon_h1"])
def test_steering_after_a_block_leaves_all_before_it_and_changes_all_after(name: str) -> None:
    model = tiny(name) if name in CONFIGS else build(name)
    names = list(model.layout.residual_sites())
    names += [sites.resid_pre(layer) for layer in range(len(model.layers))]
    _, before = model.run_with_cache(TOKENS, hooks=names)
    kept: dict[str, mx.array] = {}

    def keep(inputs: object, output: mx.array, wrapper: Any) -> None:
        kept[wrapper.path] = output

    direction = mx.sin(mx.arange(model.config["d_model"])).astype(mx.float32)
    hooks = steering.steering_hooks(1, direction, 2.0)
    model.run_with_hooks(TOKENS, hooks=[*hooks, *((path, keep) for path in names)])
    for path in names:
        layer = sites.parse(path).layer  # type: ignore[union-attr] # canonical names
        later = layer > 1 or path == sites.resid_post(1)
        assert mx.array_equal(kept[path], before[path]) != later, path


def test_steered_generation_is_the_plain_loop_without_a_cache() -> None:
    vector = steering.compute_steering_vector(demo(), GOOD, BAD, 4)
    hooks = steering.steering_hooks([3, 4], vector, 1.0)
    ids = demo().tokenize(BAD[0])
    written: list[int] = []
    for _ in range(6):
        logits = demo().run_with_hooks([*ids, *written], hooks=hooks)
        written.append(int(mx.argmax(logits[0, -1])))
    fast = demo().complete([ids, demo().tokenize("it was")], hooks=hooks, max_tokens=6)
    assert list(fast[0].token_ids) == written
    assert fast[1] == demo().complete(["it was"], hooks=hooks, max_tokens=6)[0]  # batch or alone


@pytest.mark.parametrize("name", ["llama", "gemma2", "jamba"])
def test_many_strengths_from_one_reading_are_the_whole_passes(name: str) -> None:
    model = tiny(name) if name in CONFIGS else build(name)
    rows = [[3, 5, 7, 11], [2, 4, 6, 8, 10, 12]]
    per_row = mx.stack(
        [mx.sin(mx.arange(model.config["d_model"])), mx.ones(model.config["d_model"])]
    )
    found = SteeredLogits(model, rows, first=1).under({1: per_row, 2: -per_row[0]})
    for number, row in enumerate(rows):
        hooks = [
            *steering.steering_hooks(1, per_row[number]),
            *steering.steering_hooks(2, -per_row[0]),
        ]
        alone = model.run_with_hooks(row, hooks=hooks)[0, -1]
        assert mx.allclose(found[number], alone, atol=2e-3, rtol=1e-3)


def test_steering_a_bfloat16_model_keeps_its_dtype() -> None:
    module = tiny.__wrapped__("llama").model
    module.set_dtype(mx.bfloat16)
    model = HookedModel(module, None, config=CONFIGS["llama"])
    rows = [[3, 5, 7, 11], [2, 4, 6, 8]]
    vector = steering.compute_steering_vector(model, rows, [[1, 2, 3], [9, 8, 7]], 1)
    assert vector.dtype == mx.bfloat16
    kept: list[mx.Dtype] = []

    def keep(inputs: object, output: mx.array, wrapper: Any) -> None:
        kept.append(output.dtype)

    hooks = [*steering.steering_hooks([0, 1], vector, 0.3), (sites.resid_post(2), keep)]
    assert model.run_with_hooks(rows[0], hooks=hooks).dtype == model.forward(rows[0]).dtype
    assert kept == [mx.bfloat16]
    zero = steering.steering_hooks([0, 1], vector, 0.0)
    assert mx.array_equal(model.run_with_hooks(rows[0], hooks=zero), model.forward(rows[0]))


def test_calibration_reaches_an_effect_with_the_smallest_alpha() -> None:
    superb, awful = demo().tokenize("superb awful", add_bos=False)
    vector = steering.compute_steering_vector(demo(), GOOD, BAD, 4)

    def effect(logits: mx.array) -> mx.array:
        return mx.mean(logits[:, superb] - logits[:, awful])

    alpha = steering.auto_calibrate_alpha(demo(), vector, 4, BAD, target=1.0, effect=effect)
    grid = []
    for factor in (0.0, 0.5, 0.9, 1.0, 1.1):
        hooks = steering.steering_hooks(4, vector, factor * alpha)
        ends = [demo().run_with_hooks(text, hooks=hooks)[0, -1] for text in BAD]
        grid.append(numbers(effect(mx.stack(ends))))
    assert all(low < high for low, high in pairwise(grid))
    assert grid[2] < 1.0 <= grid[3] + 1e-3
    # The same edit from a vector of another length: comparable alphas.
    twice = steering.auto_calibrate_alpha(demo(), 2 * vector, 4, BAD, target=1.0, effect=effect)
    assert 2 * twice == pytest.approx(alpha, rel=1e-3)
    with pytest.raises(ParameterError, match="No strength up to 4 residual norms reaches"):
        steering.auto_calibrate_alpha(demo(), vector, 4, BAD, target=1e4, effect=effect)


def test_without_an_effect_the_edit_is_that_fraction_of_the_mean_norm() -> None:
    vector = steering.compute_steering_vector(demo(), GOOD, BAD, 2)
    norm = float(np.mean([np.linalg.norm(at_end(text, 2)) for text in BAD]))
    assert mean_residual_norm(demo(), BAD, 2) == pytest.approx(norm, rel=1e-4)
    alpha = steering.auto_calibrate_alpha(demo(), vector, 2, BAD, target=0.7)
    assert alpha * np.linalg.norm(to_numpy(vector)) == pytest.approx(0.7 * norm, rel=1e-4)


def test_the_search_for_a_strength_does_not_jump_over_a_hill() -> None:
    def hill(strength: float) -> float:
        return math.exp(-((strength - 0.8) ** 2) / 0.1)

    found = least_strength(hill, 0.5)
    assert found.reached
    assert found.strength == pytest.approx(0.8 - math.sqrt(0.1 * math.log(2)), rel=0.02)
    flat = least_strength(lambda strength: min(strength, 0.1), 0.5)
    assert (flat.reached, flat.effect) == (False, 0.1)
    assert least_strength(lambda strength: 1.0, 0.5).strength == 0.0


def test_prompts_are_dealt_evenly_and_taught_by_the_others() -> None:
    reviews = [contrast.before_subject(p) for p in prompts.load("reviews:24").prompts]
    found, dealt = contrast.learn_contrast(demo(), reviews, ("positive", "negative"), 3, seed=5)
    by_fold = [sorted(s for s, f in zip(found.signs, found.folds, strict=True) if f == k)
               for k in range(3)]  # fmt: skip
    assert by_fold == [[-1] * 4 + [1] * 4] * 3
    assert dealt == found.folds
    words = demo().tokenizer.decode(found.positive)
    assert "wonderful" in words
    assert "awful" not in words
    directions = steering_fit.learn_directions(demo(), found, [4], "mean")
    for fold, direction in directions.items():
        others = [
            (sign, row)
            for sign, row, own in zip(found.signs, found.rows, found.folds, strict=True)
            if own != fold
        ]
        ends = {
            s: np.mean(
                [at_end(demo().tokenizer.decode(row[1:]), 4) for t, row in others if t == s], 0
            )
            for s in (1, -1)
        }
        plain = (ends[1] - ends[-1]) / np.linalg.norm(ends[1] - ends[-1])
        assert np.allclose(direction.units[4], plain, atol=1e-3)
    with pytest.raises(ParameterError, match="12 prompts have the label 'positive'; 13 folds"):
        contrast.learn_contrast(demo(), reviews, ("positive", "negative"), 13, seed=5)


def test_a_prompt_ends_before_its_subject_where_that_can_be() -> None:
    cut = contrast.before_subject(prompts.Prompt(text="the film was great . so", subject="great"))
    assert (cut.text, cut.answer) == ("the film was", "great")
    for whole in (
        prompts.Prompt(text="great film", subject="great"),
        prompts.Prompt(text="great film"),
        prompts.Prompt(text="is the film great ?", subject="great", template="chat"),
    ):
        assert contrast.before_subject(whole) == whole


def test_text_quality_is_counted_by_hand() -> None:
    tokens = [1, 2, 1, 2, 1, 2, 3]
    assert text_quality.distinct(tokens, 1) == 3 / 7
    assert text_quality.distinct(tokens, 2) == 3 / 6  # 12 21 23
    assert text_quality.repetition(tokens) == 1 - 3 / 4  # 1212 2121 1212 2123
    assert text_quality.repetition([1, 2]) == 0.0
    rows = [demo().tokenize(text) for text in ("mary lives in", "the capital of france is")]
    ends = [demo().tokenize(text, add_bos=False) for text in ("peru . it was", "paris")]
    for row, end, loss in zip(
        rows, ends, text_quality.continuation_losses(demo(), rows, ends), strict=True
    ):
        plain = []
        for place, token in enumerate(end):
            logits = to_numpy(demo().forward([*row, *end[:place]])[0, -1])
            plain.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[token])
        assert loss == pytest.approx(np.mean(plain), abs=1e-3)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_no_strength_is_refused_before_the_model_runs(alpha: float) -> None:
    with pytest.raises(ParameterError, match="expected a finite number"):
        steering.create_steering_hook(mx.ones((128,)), alpha)


def test_a_vector_of_no_prompts_is_refused() -> None:
    model = HookedModel.from_pretrained("demo")
    with pytest.raises(PromptError, match="the list is empty"):
        steering.compute_steering_vector(model, ["the cat"], [], layer=2)
