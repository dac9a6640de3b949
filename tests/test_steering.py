"""Steering: alpha 0 changes nothing, any architecture, any precision, batched or alone."""

from functools import cache
from typing import Any

import mlx.core as mx
import pytest
from tiny import CONFIGS, TOKENS, tiny  # the tiny models of the engine's tests

from mlux import steering
from mlux.engine import HookedModel, sites
from mlux.errors import HookError, ParameterError, UnknownNameError

PROMPT = "the food was"


@cache
def demo() -> HookedModel:
    return HookedModel.from_pretrained("demo")


@cache
def vector() -> mx.array:
    return steering.compute_steering_vector(demo(), "the food was amazing", "the food was awful", 3)


def test_the_vector_is_the_difference_at_the_last_token() -> None:
    path = sites.resid_post(3)
    ends = [
        demo().run_with_cache(text, hooks=[path])[1][path][0, -1]
        for text in ("the food was amazing", "the food was awful")
    ]
    assert vector().shape == (128,)
    assert mx.allclose(vector(), ends[0] - ends[1], atol=1e-5)


def test_several_prompts_are_averaged_each_at_its_own_last_token() -> None:
    texts = ["the food was amazing", "amazing"]
    both = steering.compute_steering_vector(demo(), texts, "awful", 2)
    single = [steering.compute_steering_vector(demo(), text, "awful", 2) for text in texts]
    assert mx.allclose(both, (single[0] + single[1]) / 2, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_alpha_0_changes_not_one_bit_and_more_does_on_any_architecture(name: str) -> None:
    model = tiny(name)
    direction = mx.sin(mx.arange(model.config["d_model"])).astype(mx.float32)
    plain = model.forward(TOKENS)

    def steered(alpha: float) -> mx.array:
        hook = steering.create_steering_hook(direction, alpha)
        return model.run_with_hooks(TOKENS, hooks=[(sites.resid_post(1), hook)])

    assert mx.array_equal(steered(0.0), plain)
    assert not mx.allclose(steered(2.0), plain, atol=1e-3)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_the_vector_takes_the_dtype_of_what_it_is_added_to(dtype: mx.Dtype) -> None:
    module = tiny.__wrapped__("llama").model
    module.set_dtype(dtype)
    model = HookedModel(module, None, config=CONFIGS["llama"])
    direction = mx.ones(32, dtype=mx.float32)
    for alpha in (0.0, 1.0):
        hook = steering.create_steering_hook(direction, alpha)
        logits = model.run_with_hooks(TOKENS, hooks=[(sites.resid_post(1), hook)])
        assert logits.dtype == model.forward(TOKENS).dtype
        assert mx.array_equal(logits, model.forward(TOKENS)) == (alpha == 0)


def test_steering_shows_from_its_own_layer_on() -> None:
    paths = [sites.resid_pre(3), sites.resid_post(3)]
    hook = steering.create_steering_hook(vector(), 1.5)
    kept: dict[str, mx.array] = {}

    def keep(inputs: Any, output: mx.array, wrapper: Any) -> None:
        kept[wrapper.path] = output

    _, before = demo().run_with_cache(PROMPT, hooks=paths)
    demo().run_with_hooks(PROMPT, hooks=[(paths[1], hook), *((path, keep) for path in paths)])
    assert mx.array_equal(kept[paths[0]], before[paths[0]])
    assert mx.allclose(kept[paths[1]] - before[paths[1]], 1.5 * vector(), atol=1e-4)


def test_generation_steers_every_token_at_one_layer_or_several() -> None:
    model, hook = demo(), steering.create_steering_hook(vector(), 4.0)
    one = steering.generate_with_steering(model, PROMPT, vector(), 3, alpha=4.0, max_tokens=6)
    assert one == model.generate(PROMPT, 6, hooks=[(sites.resid_post(3), hook)])
    hooks = [(sites.resid_post(layer), hook) for layer in (2, 3)]
    two = steering.generate_with_steering(model, PROMPT, vector(), [2, 3], 4.0, 6, 0.0)
    assert two == model.generate(PROMPT, 6, hooks=hooks)
    plain = model.generate(PROMPT, max_tokens=6)
    assert steering.generate_with_steering(model, PROMPT, vector(), 3, 0.0, 6) == plain
    batch = steering.generate_with_steering(model, [PROMPT, "mary"], vector(), 3, 4.0, 6)
    assert batch[0] == one


def test_prefill_and_writing_on_is_generation_in_two_steps() -> None:
    model, hooks = demo(), [(sites.resid_post(3), steering.create_steering_hook(vector(), 4.0))]
    for used in (None, hooks):
        cache, logits = steering.prefill_with_cache(model, PROMPT, hooks=used)
        assert logits.shape == (1, len(model.tokenize(PROMPT)), model.config["vocab_size"])
        whole = model.generate(PROMPT, max_tokens=8, hooks=used or ())
        for _ in range(2):  # the cache stays as it is
            arguments = (model, cache, 8, 0.0, used, logits)
            assert steering.generate_from_cache(*arguments) == whole
            assert "".join(steering.generate_from_cache_stream(*arguments)) == whole
    with pytest.raises(ParameterError, match="prefill_with_cache returns them"):
        steering.generate_from_cache(model, cache)


def test_the_class_does_the_same_in_fewer_words() -> None:
    steerer = steering.ContrastiveSteering(demo(), 3)
    with pytest.raises(ParameterError, match="call set_contrast first"):
        steerer.generate(PROMPT)
    found = steerer.set_contrast(positive="the food was amazing", negative="the food was awful")
    assert mx.array_equal(found, vector())
    expected = steering.generate_with_steering(demo(), PROMPT, vector(), 3, 2.0, 5)
    assert steerer.generate(PROMPT, alpha=2.0, max_tokens=5) == expected


def test_deltas_steer_chosen_positions_of_the_prompt_only() -> None:
    steerer = steering.ContrastiveSteering(demo(), 3)
    steerer.set_vector(vector())
    seq = len(demo().tokenize(PROMPT))
    deltas = steerer.build_deltas(PROMPT, positions=[1], alpha=2.0)
    assert deltas.shape == (1, seq, 128)
    assert mx.allclose(deltas[0, 1], 2 * vector())
    assert float(mx.sum(mx.abs(deltas)).item()) == pytest.approx(
        float(mx.sum(mx.abs(2 * vector())).item()), rel=1e-5
    )
    nothing = steerer.prefill_steered(PROMPT, deltas * 0)
    assert steerer.generate_from_cache(*nothing, max_tokens=5) == demo().generate(PROMPT, 5)
    _, steered = steerer.prefill_steered(PROMPT, deltas)
    assert mx.allclose(steered[0, 0], nothing[1][0, 0], atol=1e-5)
    assert not mx.allclose(steered[0, -1], nothing[1][0, -1], atol=1e-3)
    with pytest.raises(ParameterError, match="Position 99 is outside"):
        steerer.build_deltas(PROMPT, positions=[99])


def test_what_does_not_fit_is_said() -> None:
    hook = steering.create_steering_hook(mx.ones(64))
    with pytest.raises(HookError, match=r"has 64 entries; 'model.layers.3' has 128"):
        demo().run_with_hooks(PROMPT, hooks=[(sites.resid_post(3), hook)])
    deltas = steering.create_additive_hook(mx.ones((99, 128)))
    with pytest.raises(HookError, match="prefill_with_cache, on the same prompt"):
        demo().generate(PROMPT, hooks=[(sites.resid_post(3), deltas)])
    with pytest.raises(HookError, match="this model has 6 layers"):
        steering.generate_with_steering(demo(), PROMPT, vector(), 6)


@pytest.mark.parametrize(("length", "base"), [(10, 2.0), (50, 1.0), (100, 0.5), (5000, 0.1)])
def test_suggested_strengths(length: float, base: float) -> None:
    direction = mx.zeros(16)
    direction[3] = length
    for effect, factor in (("subtle", 0.5), ("moderate", 1.0), ("strong", 1.5)):
        assert steering.suggest_alpha(direction, effect) == pytest.approx(base * factor)
    assert steering.suggest_alpha(direction, 25.0) == pytest.approx(25.0 / length)
    with pytest.raises(UnknownNameError, match="Did you mean 'strong'"):
        steering.suggest_alpha(direction, "stronk")


def test_a_calibrated_alpha_is_a_fraction_of_the_residual_stream() -> None:
    alpha = steering.auto_calibrate_alpha(demo(), vector(), 3, [PROMPT], target=0.25)
    _, cache = demo().run_with_cache(PROMPT, hooks=[sites.resid_post(3)])
    there = float(mx.linalg.norm(cache[sites.resid_post(3)][0, -1]).item())
    added = alpha * float(mx.linalg.norm(vector()).item())
    assert added == pytest.approx(0.25 * there, rel=1e-4)
    with pytest.raises(ParameterError, match="is zero"):
        steering.auto_calibrate_alpha(demo(), vector() * 0, 3, [PROMPT])
