"""Hooks: in order, in their place, in their thread; and a model that is always left clean."""

from threading import Thread
from typing import Any

import mlx.core as mx
import pytest
from tiny import CONFIGS, TOKENS, tiny

from mlux.engine import HookedModel, HookWrapper, sites
from mlux.errors import HookError, UnknownNameError

LAYER = "model.layers.1"


@pytest.fixture(autouse=True)
def left_clean() -> Any:
    """After every test the model has its own classes and computes what it computed before."""
    model = tiny("llama").model
    classes = [type(module) for _, module in model.named_modules()]
    before = model(TOKENS)
    attention = mx.fast.scaled_dot_product_attention
    yield
    assert [type(module) for _, module in model.named_modules()] == classes
    assert mx.array_equal(before, model(TOKENS))
    assert mx.fast.scaled_dot_product_attention is attention


def double(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
    return output * 2


def test_several_hooks_on_one_path_run_in_order() -> None:
    model = tiny("llama")
    seen: list[mx.array] = []

    def add_one(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return output + 1

    def look(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> None:
        seen.append(output)

    _, cache = model.run_with_cache(TOKENS, hooks=[LAYER])
    model.run_with_hooks(TOKENS, hooks=[(LAYER, double), (LAYER, add_one), (LAYER, look)])
    assert mx.array_equal(seen[0], cache[LAYER] * 2 + 1)


def test_a_layer_and_its_child_can_be_hooked_in_one_call() -> None:
    model = tiny("llama")
    paths = [LAYER, f"{LAYER}.mlp", f"{LAYER}.mlp.down_proj", f"{LAYER}.self_attn.z"]
    fired: list[str] = []

    def note(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> None:
        fired.append(wrapper.path)

    model.run_with_hooks(TOKENS, hooks=[(path, note) for path in paths])
    assert sorted(fired) == sorted(paths)


def test_a_hook_knows_where_it_is() -> None:
    model = tiny("llama")
    places: list[HookWrapper] = []

    def note(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> None:
        places.append(wrapper)

    model.run_with_hooks(TOKENS, hooks=[(sites.head(2, 3), note)])
    assert (places[0].layer, places[0].head) == (2, 3)
    assert places[0].module is model.layers[2].self_attn


def test_an_edit_shows_from_its_own_output_on() -> None:
    model = tiny("llama")
    paths = ["model.layers.0", "model.layers.1.input", "model.layers.1", "model.layers.2"]
    _, before = model.run_with_cache(TOKENS, hooks=paths)
    kept: dict[str, mx.array] = {}

    def keep(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> None:
        kept[wrapper.path] = output

    model.run_with_hooks(
        TOKENS, hooks=[("model.layers.1", double), *((path, keep) for path in paths)]
    )
    unchanged = [path for path in paths if mx.array_equal(before[path], kept[path])]
    assert unchanged == ["model.layers.0", "model.layers.1.input"]


def test_an_unknown_path_raises_before_the_model_runs() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'model.layers.1.mlp.gate_proj'"):
        tiny("llama").run_with_cache(TOKENS, hooks=["model.layers.1.mlp.gate_porj"])


def test_a_hook_that_never_fires_raises_after_it() -> None:
    module = tiny("llama").model
    module.spare = type(module.model.norm)(32)  # a module that no forward pass reaches
    try:
        model = HookedModel(module, None, config=CONFIGS["llama"])
        with pytest.raises(HookError, match=r"'spare' never fired"):
            model.run_with_hooks(TOKENS, hooks=[("spare", double)])
    finally:
        del module.spare


def test_a_hook_that_raises_leaves_the_model_clean() -> None:
    def broken(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> None:
        raise RuntimeError("broken")

    for path in (LAYER, sites.tap(1, "pattern"), sites.resid_pre(1)):
        with pytest.raises(RuntimeError, match="broken"):
            tiny("llama").run_with_hooks(TOKENS, hooks=[(path, broken)])


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        (lambda out: out[:, :2], r"returned shape \[2, 2, 32\]; expected \[2, 8, 32\]"),
        (lambda out: out.astype(mx.float16), r"returned mlx.core.float16; expected .*float32"),
        (lambda out: 3.0, r"returned float; expected an array"),
    ],
)
def test_a_replacement_that_does_not_fit_is_refused(replacement: Any, message: str) -> None:
    with pytest.raises(HookError, match=message):
        tiny("llama").run_with_hooks(
            TOKENS, hooks=[(LAYER, lambda inputs, out, wrapper: replacement(out))]
        )


def test_a_hook_may_run_the_model_itself() -> None:
    """A nested pass has hooks of its own only."""
    model = tiny("llama")
    bare = model.model(TOKENS)
    inner: list[mx.array] = []

    def nested(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        inner.append(model.forward(TOKENS))
        _, cache = model.run_with_cache(TOKENS, hooks=[LAYER])
        return cache[LAYER]

    logits = model.run_with_hooks(TOKENS, hooks=[(LAYER, nested)])
    assert mx.array_equal(inner[0], bare)
    assert mx.array_equal(logits, bare)


def test_another_thread_sees_no_hooks() -> None:
    model = tiny("llama")
    bare = model.model(TOKENS)
    mx.eval(bare)
    elsewhere: list[bool] = []

    def meanwhile(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        def run() -> None:
            logits = model.model(TOKENS)
            mx.eval(logits)
            elsewhere.append(bool(mx.array_equal(logits, bare)))

        thread = Thread(target=run)
        thread.start()
        thread.join()
        return output * 2

    hooks = [(LAYER, meanwhile), (sites.tap(1, "z"), meanwhile)]
    model.run_with_hooks(TOKENS, hooks=hooks)
    assert elsewhere == [True, True]


def test_what_a_cache_holds_never_changes() -> None:
    model = tiny("llama")

    def scribble(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> None:
        output[:] = 0.0  # as gemma3n does to the residual stream

    path = sites.resid_post(2)
    _, before = model.run_with_cache(TOKENS, hooks=[path])
    state = model._pass()
    state.add_captures([path])
    state.add_hook(path, scribble)
    model._run(state, TOKENS)
    assert mx.array_equal(state.captured[path], before[path])


def test_pre_hooks_change_the_arguments_of_a_module() -> None:
    model = tiny("llama")

    def halve(args: tuple[Any, ...], kwargs: dict[str, Any], wrapper: HookWrapper) -> Any:
        return (args[0] / 2, *args[1:]), kwargs

    logits = model.run_with_hooks(TOKENS, pre_hooks=[(f"{LAYER}.mlp.down_proj", halve)])
    halved = model.run_with_hooks(
        TOKENS, hooks=[(f"{LAYER}.mlp", lambda inputs, out, wrapper: out / 2)]
    )
    assert mx.allclose(logits, halved, atol=1e-5)
    with pytest.raises(HookError, match=r"expected \(args, kwargs\) or None"):
        model.run_with_hooks(TOKENS, pre_hooks=[(LAYER, lambda args, kwargs, wrapper: args)])
    with pytest.raises(HookError, match="A pre-hook needs a module"):
        model.run_with_hooks(TOKENS, pre_hooks=[(sites.tap(0, "q"), halve)])


def test_an_absent_activation_is_answered_with_close_matches() -> None:
    _, cache = tiny("llama").run_with_cache(TOKENS, hooks=[LAYER])
    with pytest.raises(UnknownNameError, match=r"Did you mean 'model.layers.1'"):
        cache["model.layers.11"]
    assert "model.layers.1: [2, 8, 32] float32" in repr(cache)


def test_the_default_cache_is_the_residual_stream_and_what_is_added_to_it() -> None:
    _, cache = tiny("gpt2").run_with_cache(TOKENS)
    assert sorted(cache) == sorted(
        f"model.layers.{layer}{part}" for layer in range(3) for part in ("", ".self_attn", ".mlp")
    )


def test_edits_through_a_cache_show_in_generation_steps() -> None:
    """With mlx-lm's key-value cache, one token at a time, hooks see and edit every step."""
    from mlx_lm.models.cache import make_prompt_cache

    model = tiny("llama")
    hooks = [(sites.attn_out(1), double)]
    whole = model.run_with_hooks(TOKENS[:1], hooks=hooks)
    kv_cache = make_prompt_cache(model.model)
    steps = [
        model.run_with_hooks(TOKENS[:1, i : i + 1], hooks=hooks, cache=kv_cache) for i in range(8)
    ]
    assert mx.allclose(mx.concatenate(steps, axis=1), whole, atol=1e-4)


def test_a_hook_added_twice_acts_twice() -> None:
    model = tiny("llama")
    _, once = model.run_with_cache(TOKENS, hooks=[LAYER])
    seen: list[mx.array] = []

    def look(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> None:
        seen.append(output)

    model.run_with_hooks(TOKENS, hooks=[(LAYER, double), (LAYER, double), (LAYER, look)])
    assert mx.array_equal(seen[0], once[LAYER] * 4)


def test_two_models_at_once_do_not_see_each_other() -> None:
    """Also two of one class, the inner run within a hook of the outer."""
    outer, inner = tiny("llama"), HookedModel(*_another_llama())
    bare = inner.model(TOKENS)
    seen: list[mx.array] = []

    def run_the_other(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        seen.append(inner.run_with_hooks(TOKENS, hooks=[(sites.tap(0, "z"), _look)]))
        return output * 2

    edited = outer.run_with_hooks(TOKENS, hooks=[(LAYER, double)])
    nested = outer.run_with_hooks(
        TOKENS, hooks=[(LAYER, run_the_other), (sites.tap(2, "pattern"), _look)]
    )
    assert mx.array_equal(nested, edited)
    assert mx.array_equal(seen[0], bare)


def _look(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> None:
    """Changes nothing."""


def _another_llama() -> tuple[Any, None]:
    from mlx_lm.models import llama

    mx.random.seed(9)
    return llama.Model(llama.ModelArgs.from_dict(CONFIGS["llama"] | {"model_type": "llama"})), None


def test_a_router_is_read_and_edited_by_its_own_path() -> None:
    model = tiny("mixtral")
    path = "model.layers.1.block_sparse_moe.gate"
    logits, cache = model.run_with_cache(TOKENS, hooks=[path])
    assert cache[path].shape == (2, 8, 4)  # one logit for each expert
    only_first = mx.array([1e4, 0.0, 0.0, 0.0])
    edited = model.run_with_hooks(
        TOKENS, hooks=[(path, lambda inputs, out, wrapper: out * 0 + only_first)]
    )
    assert not mx.allclose(edited, logits, atol=1e-3)
