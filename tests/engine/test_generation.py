"""Generation: mlx-lm's own text without hooks, the same with and without cache, alone and in batch,
with hooks from the prompt's first token on, and a model that is always left clean."""

from collections.abc import Sequence
from functools import cache
from threading import Thread
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler
from mlx_lm.tuner.utils import linear_to_lora_layers
from tiny import CONFIGS, tiny

from mlux.engine import HookedModel, HookWrapper, generation, sites
from mlux.engine.passes import Hook
from mlux.errors import HookError, ModelError, ParameterError, PromptError, UnknownNameError
from mlux.prompts import Prompt

PROMPT = "the capital of france is"
ROWS = [[3, 5, 7, 11, 13, 17], [2, 4, 6, 8, 10, 12, 14, 16, 18], [9], [1, 2]]


@cache
def demo() -> HookedModel:
    return HookedModel.from_pretrained("demo")


@pytest.fixture(autouse=True)
def left_clean() -> Any:
    """After every test the models have their own classes and default stream."""
    models = [demo().model, tiny("llama").model]
    before = [[type(module) for _, module in model.named_modules()] for model in models]
    stream, attention = mx.default_stream(mx.default_device()), mx.fast.scaled_dot_product_attention
    yield
    assert before == [[type(m) for _, m in model.named_modules()] for model in models]
    assert mx.default_stream(mx.default_device()) == stream
    assert mx.fast.scaled_dot_product_attention is attention


def push(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
    """Adds something large enough to change what is said."""
    return output + 2 * mx.sin(mx.arange(output.shape[-1])).astype(output.dtype)


def slow(
    model: HookedModel, ids: Sequence[int], count: int, hooks: Sequence[tuple[str, Hook]] = ()
) -> list[int]:
    """Greedy generation as a beginner would write it: no cache, the whole text every time."""
    ids, start = list(ids), len(ids)
    for _ in range(count):
        logits = model.run_with_hooks(mx.array([ids]), hooks=hooks)
        ids.append(int(mx.argmax(logits[0, -1]).item()))
    return ids[start:]


def fast(model: HookedModel, ids: Sequence[int], count: int, **options: Any) -> list[int]:
    return list(model.complete([list(ids)], max_tokens=count, **options)[0].token_ids)


@pytest.mark.parametrize("prompt", [PROMPT, "mary lives in", "hot → cold ; big →"])
def test_without_hooks_it_is_the_text_of_mlx_lm(prompt: str) -> None:
    model = demo()
    bare = (model.model, model.tokenizer, prompt)
    assert model.generate(prompt, max_tokens=20) == mlx_lm.generate(*bare, max_tokens=20)
    mx.random.seed(5)
    sampler = make_sampler(temp=0.9, top_p=0.9, min_p=0.01, top_k=50)
    sampled = mlx_lm.generate(*bare, max_tokens=20, sampler=sampler)
    options = {"temperature": 0.9, "top_p": 0.9, "min_p": 0.01, "top_k": 50, "seed": 5}
    assert model.generate(prompt, max_tokens=20, **options) == sampled


@pytest.mark.parametrize("name", CONFIGS)
def test_with_the_cache_it_is_what_it_is_without(name: str) -> None:
    model, hooks = tiny(name), [(sites.resid_post(1), push)]
    assert fast(model, ROWS[0], 7) == slow(model, ROWS[0], 7)
    assert fast(model, ROWS[0], 7, hooks=hooks) == slow(model, ROWS[0], 7, hooks)
    assert fast(model, ROWS[0], 7, prefill_step_size=2) == slow(model, ROWS[0], 7)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_prompt_in_a_batch_is_what_it_is_alone(name: str) -> None:
    model, hooks = tiny(name), [(sites.resid_post(1), push)]
    together = model.complete(ROWS, max_tokens=9, hooks=hooks)
    assert [list(done.token_ids) for done in together] == [
        fast(model, ids, 9, hooks=hooks) for ids in ROWS
    ]
    assert [done.prompt_ids for done in together] == [tuple(ids) for ids in ROWS]


def test_a_model_whose_masks_know_no_padding_runs_one_prompt_after_the_other() -> None:
    assert not generation.can_batch(tiny("gemma2"))
    assert generation.can_batch(tiny("llama"))


def test_a_sampled_batch_draws_what_each_prompt_draws_alone() -> None:
    prompts = [PROMPT, "mary lives in", PROMPT]
    options = {"temperature": 3.0, "max_tokens": 8}
    together = demo().generate(prompts, seed=3, **options)
    alone = [demo().generate(prompt, seed=3 + i, **options) for i, prompt in enumerate(prompts)]
    assert together == alone
    assert together[0] != together[2]  # one prompt twice gives two samples


def test_a_seed_leaves_the_random_state_as_it_was() -> None:
    mx.random.seed(1)
    expected = mx.random.normal((2,)).tolist()
    mx.random.seed(1)
    demo().generate(PROMPT, max_tokens=3, temperature=1.0, seed=7)
    assert mx.random.normal((2,)).tolist() == expected


def test_hooks_see_every_position_from_the_first_token_of_the_prompt_on() -> None:
    seen: list[int] = []

    def count(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> None:
        seen.append(output.shape[1])

    done = demo().complete([PROMPT], max_tokens=4, hooks=[(sites.resid_post(2), count)])[0]
    assert sum(seen) == len(done.prompt_ids) + 4  # of the last token only its place is computed
    assert seen[-4:] == [1, 1, 1, 1]


def test_pre_hooks_and_attention_taps_work_in_generation() -> None:
    def silence(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return mx.zeros_like(output)

    def silent(args: tuple[Any, ...], kwargs: dict[str, Any], wrapper: HookWrapper) -> Any:
        return (mx.zeros_like(args[0]), *args[1:]), kwargs

    model = demo()
    by_tap = model.generate(PROMPT, hooks=[(sites.tap(2, "z"), silence)], max_tokens=8)
    path = "model.layers.2.self_attn.o_proj"
    assert model.generate(PROMPT, pre_hooks=[(path, silent)], max_tokens=8) == by_tap


def test_a_stream_is_the_same_text_in_pieces() -> None:
    model = demo()
    chunks = list(model.stream(PROMPT, max_tokens=12))
    assert "".join(chunk.text for chunk in chunks) == model.generate(PROMPT, max_tokens=12)
    assert [chunk.finish_reason for chunk in chunks] == [None] * 11 + ["length"]
    assert all(int(mx.argmax(chunk.logprobs).item()) == chunk.token_id for chunk in chunks)
    with pytest.raises(ParameterError, match="one prompt"):
        model.stream([PROMPT, PROMPT])


def test_stops_end_the_text_and_are_not_part_of_it() -> None:
    model = demo()
    done = model.complete([PROMPT], max_tokens=12)[0]
    text = done.text
    for stops in ([text[4:6]], [text[3:9]], [text[9:11], text[5:8]]):
        expected = text[: min(text.find(stop) for stop in stops)]
        assert model.generate(PROMPT, max_tokens=12, stop=stops) == expected
        assert "".join(c.text for c in model.stream(PROMPT, max_tokens=12, stop=stops)) == expected
        assert model.generate([PROMPT, "mary"], max_tokens=12, stop=stops)[0] == expected
    assert model.generate(PROMPT, max_tokens=12, stop=text[4:6]) == text[: text.find(text[4:6])]
    token = done.token_ids[2]
    stopped = model.complete([PROMPT], max_tokens=12, stop=token)[0]
    assert stopped.token_ids == done.token_ids[: done.token_ids.index(token)]
    assert stopped.finish_reason == "stop"


def test_a_text_that_only_begins_like_a_stop_is_kept() -> None:
    text = demo().generate(PROMPT, max_tokens=6)
    assert demo().generate(PROMPT, max_tokens=6, stop=text[-3:] + " and no more") == text


def test_a_model_stops_at_its_own_end_and_at_the_end_of_its_context() -> None:
    chat = demo().complete([[{"role": "user", "content": "what is the opposite of heavy ?"}]])[0]
    assert chat.finish_reason == "stop"
    assert not set(chat.token_ids) & set(demo().tokenizer.eos_token_ids)
    model, context = tiny("gpt2"), tiny("gpt2").config["context_length"]
    full = model.complete([[1] * (context - 2)], max_tokens=50)[0]
    assert (len(full.token_ids), full.finish_reason) == (3, "context")
    with pytest.raises(PromptError, match="this model's context is"):
        model.complete([[1] * (context + 1)])


def last_logprobs(**options: Any) -> mx.array:
    """The distribution over the sixth token."""
    options = {"max_tokens": 6, "prefill_step_size": 2} | options
    return list(demo().stream([1, 20, 30, 40, 50], **options))[-1].logprobs


def test_a_quantised_and_a_rotating_cache() -> None:
    hooks = [(sites.tap(1, "pattern"), lambda inputs, out, wrapper: mx.roll(out, 1, axis=1))]
    for steered in ([], hooks):
        exact = mx.exp(last_logprobs(hooks=steered))
        quantised = mx.exp(last_logprobs(hooks=steered, kv_bits=8))
        assert 0 < float(mx.max(mx.abs(exact - quantised)).item()) < 0.05
        assert mx.allclose(mx.exp(last_logprobs(hooks=steered, max_kv_size=64)), exact, atol=1e-5)
    model = demo()
    alone = model.generate(PROMPT, max_tokens=6, kv_bits=8)
    assert model.generate([PROMPT, "mary"], max_tokens=6, kv_bits=8)[0] == alone
    cache = generation.make_cache(model, generation.Options(max_kv_size=8))
    assert model.generate(PROMPT, max_tokens=30, prompt_cache=cache)
    assert {layer.keys.shape[2] for layer in cache} == {8}
    with pytest.raises(ParameterError, match="cannot be quantised"):
        tiny("gemma3_text").complete([[1, 2]], kv_bits=8)
    with pytest.raises(ParameterError, match="multiple of the group size 32"):
        tiny("llama").complete([[1, 2]], kv_bits=8)


def test_a_prompt_cache_stands_for_what_came_before() -> None:
    model = demo()
    ids = model.tokenize(PROMPT)
    cache = make_prompt_cache(model.model)
    model.run_with_hooks(ids[:-2], cache=cache)
    rest = model.generate(ids[-2:], max_tokens=8, prompt_cache=cache)
    assert rest == model.generate(PROMPT, max_tokens=8)
    with pytest.raises(ParameterError, match="one prompt"):
        model.generate([PROMPT, PROMPT], prompt_cache=cache)


def test_what_may_be_a_prompt() -> None:
    model = demo()
    text, ids = model.generate(PROMPT, max_tokens=4), model.tokenize(PROMPT)
    for prompt in (ids, mx.array(ids), mx.array([ids]), Prompt(text=PROMPT)):
        assert model.generate(prompt, max_tokens=4) == text
    for prompts in ([PROMPT], [ids], [Prompt(text=PROMPT)]):
        assert model.generate(prompts, max_tokens=4) == [text]
    turns = [{"role": "user", "content": "what is the opposite of heavy ?"}]
    said = model.generate(turns, max_tokens=4)
    assert model.generate([turns, turns], max_tokens=4) == [said, said]
    assert model.generate(Prompt(text=turns[0]["content"], template="chat"), max_tokens=4) == said
    for wrong in ([], [[]], 3, [PROMPT, 3], {"role": "user"}):
        with pytest.raises(PromptError):
            model.generate(wrong)
    with pytest.raises(PromptError, match="from 0 to"):
        model.generate([0, 10**6])
    with pytest.raises(PromptError, match="no tokenizer"):
        tiny("llama").complete("text")
    with pytest.raises(ModelError, match="no tokenizer"):
        tiny("llama").generate([1, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; expected a whole number, at least 1"),
        ({"temperature": -1}, "temperature is -1; expected a number, at least 0"),
        ({"temperature": float("nan")}, "temperature is nan; expected a number, at least 0"),
        ({"temperature": "warm"}, "temperature is 'warm'; expected a number"),
        ({"max_tokens": 1.5}, "max_tokens is 1.5; expected a whole number"),
        ({"max_tokens": None}, "max_tokens is None; leave it out"),
        ({"top_p": 1.5}, "top_p is 1.5; expected a number from 0 to 1"),
        ({"min_p": -0.1}, "min_p is -0.1; expected a number from 0 to 1"),
        ({"top_k": True}, "top_k is True; expected a whole number"),
        ({"seed": -1}, "seed is -1; expected a whole number from 0"),
        ({"seed": 2**64}, "seed is 18446744073709551616; expected a whole number from 0"),
        ({"seed": 1.5}, "seed is 1.5; expected a whole number from 0"),
        ({"kv_bits": 0}, "kv_bits is 0; expected a whole number from 1 to 8"),
        ({"quantized_kv_start": -1}, "quantized_kv_start is -1; expected a whole number"),
        ({"stop": 1.5}, "stop is 1.5; expected texts and token ids"),
        ({"stop": [None]}, "stop has None; expected texts and token ids"),
        ({"kv_bits": 8, "max_kv_size": 9}, "cannot be quantised"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    for write in (demo().generate, demo().stream, lambda text, **o: demo().complete([text], **o)):
        with pytest.raises(ParameterError, match=message) as caught:
            write(PROMPT, **options)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"top_p": 0}, {"top_p": 0.0}, {"top_p": 1e-9}, {"top_k": 1}, {"min_p": 1}]
)
def test_what_leaves_one_token_to_draw_from_is_the_most_probable(options: dict[str, Any]) -> None:
    greedy = demo().generate(PROMPT, max_tokens=8)
    for seed in range(8):
        drawn = demo().generate(PROMPT, max_tokens=8, temperature=3.0, seed=seed, **options)
        assert drawn == greedy
    assert demo().generate(PROMPT, max_tokens=8, temperature=1e-40, seed=1) == greedy


def test_an_unknown_option_is_answered_with_close_matches() -> None:
    with pytest.raises(UnknownNameError, match=r"'temprature'. Did you mean 'temperature'"):
        demo().stream(PROMPT, temprature=1.0)


@pytest.mark.parametrize("prompts", [PROMPT, [PROMPT, "mary lives in"]])
def test_misused_hooks_are_refused_and_leave_the_model_clean(prompts: Any) -> None:
    model = demo()

    def broken(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> None:
        if output.shape[1] == 1:
            raise RuntimeError("broken")

    with pytest.raises(UnknownNameError, match="Did you mean"):
        model.generate(prompts, hooks=[("model.layers.1.mpl", push)])
    with pytest.raises(RuntimeError, match="broken"):
        model.generate(prompts, hooks=[(sites.resid_post(1), broken)])
    with pytest.raises(HookError, match="returned shape"):
        model.generate(prompts, hooks=[(sites.resid_post(1), lambda i, out, w: out[..., :2])])
    with pytest.raises(HookError, match=r"expected .*float32"):
        model.generate(
            prompts, hooks=[(sites.resid_post(1), lambda i, out, w: out.astype(mx.float16))]
        )


def test_a_hook_that_never_fires_in_the_whole_generation_raises() -> None:
    module = tiny.__wrapped__("llama").model
    module.spare = type(module.model.norm)(32)
    model = HookedModel(module, None, config=CONFIGS["llama"])
    for rows in (ROWS[:1], ROWS):
        with pytest.raises(HookError, match=r"'spare' never fired"):
            model.complete(rows, max_tokens=2, hooks=[("spare", push)])


def test_between_two_tokens_the_model_is_free() -> None:
    model = demo()
    logits, expected = model.forward(PROMPT), model.generate(PROMPT, max_tokens=6)
    hooks = [(sites.resid_post(1), push), (sites.tap(1, "pattern"), lambda i, out, w: None)]
    stream = model.stream(PROMPT, max_tokens=20, hooks=hooks)
    for _ in range(3):
        next(stream)
        assert mx.array_equal(model.forward(PROMPT), logits)
        assert model.generate(PROMPT, max_tokens=6) == expected
    stream.close()
    assert next(stream, None) is None
    assert model.hook_fires > 0


def test_two_models_may_take_turns() -> None:
    one, other = demo(), HookedModel.from_pretrained("demo-4bit")
    expected = one.generate(PROMPT, max_tokens=5), other.generate(PROMPT, max_tokens=5)
    streams = one.stream(PROMPT, max_tokens=5), other.stream(PROMPT, max_tokens=5)
    pieces = [[chunk.text for chunk in pair] for pair in zip(*streams, strict=True)]
    assert tuple("".join(piece) for piece in zip(*pieces, strict=True)) == expected


def in_a_thread(work: Any) -> Any:
    """What `work` returns or raises in a thread of its own."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except ModelError as error:
            results.append(error)
        finally:
            mx.clear_streams()  # MLX aborts at exit if a thread leaves its streams behind

    thread = Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def test_another_thread_generates_undisturbed_while_hooks_are_active_here() -> None:
    model = demo()
    expected = model.generate(PROMPT, max_tokens=5)
    elsewhere: list[str] = []

    def meanwhile(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        if not elsewhere:
            elsewhere.append(in_a_thread(lambda: model.generate(PROMPT, max_tokens=5)))
        return mx.zeros_like(output)

    steered = model.generate(PROMPT, max_tokens=5, hooks=[(sites.resid_post(1), meanwhile)])
    assert elsewhere == [expected]
    assert steered != expected


def test_a_stream_stays_in_its_thread() -> None:
    stream = demo().stream(PROMPT, max_tokens=3)
    refused = in_a_thread(lambda: next(stream))
    assert isinstance(refused, ModelError)
    assert "started in another thread" in str(refused)
    assert len(list(stream)) == 3


def half(name: str, dtype: mx.Dtype) -> HookedModel:
    model = tiny.__wrapped__(name).model
    model.set_dtype(dtype)
    return HookedModel(model, None, config=CONFIGS[name])


def quantised(bits: int) -> HookedModel:
    model = tiny.__wrapped__("llama").model
    nn.quantize(
        model,
        group_size=32,
        bits=bits,
        class_predicate=lambda path, m: hasattr(m, "to_quantized") and m.weight.shape[-1] == 32,
    )
    return HookedModel(model, None, config=CONFIGS["llama"])


def adapted() -> HookedModel:
    model = tiny.__wrapped__("llama").model
    linear_to_lora_layers(model, 3, {"rank": 4, "scale": 3.0, "dropout": 0.0})
    for path, module in model.named_modules():
        if hasattr(module, "lora_b"):
            module.lora_b = mx.sin(mx.arange(module.lora_b.size) + len(path)).reshape(
                module.lora_b.shape
            )
    return HookedModel(model, None, config=CONFIGS["llama"])


VARIANTS = {
    "float16": lambda: half("llama", mx.float16),
    "bfloat16": lambda: half("qwen3", mx.bfloat16),
    "4 bits": lambda: quantised(4),
    "8 bits": lambda: quantised(8),
    "LoRA": adapted,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_precision_and_an_adapter(variant: str) -> None:
    """Hooks see the model's own dtype; looking and adding nothing changes not one bit."""
    model = VARIANTS[variant]()
    plain = [fast(model, ids, 6) for ids in ROWS]
    seen: set[mx.Dtype] = set()

    def look(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        seen.add(output.dtype)
        return output + mx.array(0.0, output.dtype)

    hooks = [(sites.resid_post(1), look), (sites.tap(2, "z"), look)]
    assert [fast(model, ids, 6, hooks=hooks) for ids in ROWS] == plain
    assert seen == {model.resid_dtype}
    assert fast(model, ROWS[0], 6, hooks=[(sites.resid_post(0), push)]) != plain[0]
    if model.resid_dtype == mx.float32:
        assert plain[0] == slow(model, ROWS[0], 6)
        assert [list(done.token_ids) for done in model.complete(ROWS, max_tokens=6)] == plain
    else:  # half precision rounds differently on other shapes: the logits agree, to rounding
        logits = model.forward(mx.array([ROWS[0]]))[0, -1].astype(mx.float32)
        logprobs = next(model.stream(ROWS[0])).logprobs.astype(mx.float32)
        exact = logits - mx.logsumexp(logits)
        assert float(mx.max(mx.abs(logprobs - exact)).item()) < 0.05 * float(
            mx.max(mx.abs(exact)).item()
        )
