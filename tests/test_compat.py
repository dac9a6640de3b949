"""What notebooks written for mlux 0.2 use still does what they expect."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from tiny import TOKENS, tiny  # the tiny models of the engine's tests

import mlux
import mlux.methods
from mlux import compat
from mlux.engine import HookedModel
from mlux.errors import HookError, ParameterError, UnknownNameError
from mlux.tools.logit_lens import LogitLens

PROMPT = "the capital of france is"


@cache
def demo() -> HookedModel:
    return HookedModel.from_pretrained("demo")


DOCUMENTED = (
    "mlux.compat", "mlux.steering", "mlux.templates", "mlux.tools.logit_lens",
    "mlux.engine.model", "mlux.engine.running", "mlux.engine.writing", "mlux.engine.batching",
    "mlux.engine.sites", "mlux.engine.prefilled", "mlux.engine.spans", "mlux.engine.last_token",
    "mlux.results", "mlux.registry", "mlux.runner", "mlux.store.artifacts",
    "mlux.prompts.few_shot", "mlux.prompts.tasks", "mlux.prompts.ioi", "mlux.prompts.repetition",
    *(f"mlux.methods.{module.name}" for module in pkgutil.iter_modules(mlux.methods.__path__)),
)  # fmt: skip
METHODS = [importlib.import_module(name) for name in DOCUMENTED if ".methods." in name]
PUBLIC = [
    *(
        thing
        for module in METHODS
        for name, thing in vars(module).items()
        if inspect.isfunction(thing) and thing.__module__ == module.__name__ and name[0] != "_"
    ),
    *(getattr(HookedModel, name) for name in dir(HookedModel) if not name.startswith("_")),
    *(getattr(mlux, name) for name in mlux.__all__ if callable(getattr(mlux, name))),
]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_example_in_a_docstring_runs(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: getattr(thing, "__name__", "property"))
def test_every_public_name_has_an_example(thing: Any) -> None:
    assert ">>>" in (inspect.getdoc(thing) or "")


def test_the_top_level_has_every_name_lazily() -> None:
    assert all(getattr(mlux, name) is not None for name in mlux.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mlux.nothing


@pytest.mark.parametrize("module", ["mlux.steering", "mlux.compat", "mlux.tools.logit_lens"])
def test_a_notebook_may_begin_with_any_of_them(module: str) -> None:
    """The BLAS is loaded before MLX, or a warning would say that it is too late."""
    script = [sys.executable, "-W", "error", "-c", f"import {module}"]
    finished = subprocess.run(script, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_a_model_answers_to_its_old_names() -> None:
    model = demo()
    bare = HookedModel(model.model)  # a tokenizer is needed for text only
    assert mx.array_equal(bare.forward(TOKENS), model.forward(TOKENS))
    ids = model.tokenize(PROMPT)
    assert isinstance(ids, list)
    assert model.tokenize(PROMPT, add_bos=False) == ids[1:]
    assert mx.array_equal(model.forward(ids), model.forward(PROMPT))
    assert model.find_hooks("mlp") == [p for p in model.available_hooks() if "mlp" in p]


def test_quantisation_sets_the_tolerance() -> None:
    model, four = demo(), HookedModel.from_pretrained("demo-4bit")
    assert (model.quantization_bits, four.quantization_bits) == (None, 4)
    assert model.get_tolerance() == 1e-5
    assert four.get_tolerance() == 0.15
    assert four.get_tolerance(strict=1e-6, relaxed=0.5) == 0.5
    eight = tiny.__wrapped__("llama").model
    nn.quantize(
        eight, group_size=32, bits=8, class_predicate=lambda path, m: path.endswith("q_proj")
    )
    assert HookedModel(eight).get_tolerance() == 0.075


def test_a_hook_finds_the_old_names_on_its_wrapper() -> None:
    seen: list[Any] = []
    model = demo()
    path = "model.layers.2.mlp"
    model.run_with_hooks(PROMPT, hooks=[(path, lambda inputs, out, w: seen.append(w))])
    assert seen[0].hook_name == path
    assert seen[0].wrapped is model.layers[2].mlp


def test_wrapped_modules_are_read_and_edited_until_they_are_unwrapped() -> None:
    model = demo()
    logits, cache = model.run_with_cache(PROMPT, hooks=["model.layers.2.mlp"])
    classes = [type(module) for _, module in model.model.named_modules()]
    wrappers = compat.wrap_modules(model.model, lambda path, module: path == "model.layers.2.mlp")
    assert list(wrappers) == ["model.layers.2.mlp"]
    wrapper = wrappers["model.layers.2.mlp"]
    assert isinstance(model.layers[2].mlp, type(wrapper.wrapped))
    assert mx.array_equal(model.model(mx.array([model.tokenize(PROMPT)])), logits)
    kept = compat.collect_activations(wrappers)["model.layers.2.mlp"]
    assert mx.array_equal(kept, cache["model.layers.2.mlp"])
    assert wrapper.last_input[0].shape == kept.shape
    wrapper.set_hook(lambda inputs, output, wrapper: output * 0)
    silenced = model.forward(PROMPT)
    hooks = [("model.layers.2.mlp", lambda inputs, out, w: out * 0)]
    # A pass of mlux sees the wrapped module's output, and both leave each other in place.
    assert mx.array_equal(model.run_with_hooks(PROMPT, hooks=hooks), silenced)
    wrapper.clear_cache()
    assert compat.collect_activations(wrappers) == {}
    compat.unwrap_modules(model)
    assert [type(module) for _, module in model.model.named_modules()] == classes
    assert mx.array_equal(model.run_with_hooks(PROMPT, hooks=hooks), silenced)
    assert mx.array_equal(model.forward(PROMPT), logits)


def test_a_layer_and_its_child_can_be_wrapped_and_a_pre_hook_changes_arguments() -> None:
    model = tiny("llama")
    plain = model.forward(TOKENS)
    wrappers = compat.wrap_modules(
        model,
        lambda path, module: path in ("model.layers.1", "model.layers.1.mlp"),
        pre_hook_fn=lambda args, kwargs, wrapper: ((args[0] * 2, *args[1:]), kwargs),
    )
    try:
        assert sorted(wrappers) == ["model.layers.1", "model.layers.1.mlp"]
        assert compat.wrap_modules(model, lambda path, module: path == "model.layers.1") == {}
        assert not mx.allclose(model.forward(TOKENS), plain)
    finally:
        compat.unwrap_modules(model)
    assert mx.array_equal(model.forward(TOKENS), plain)
    with pytest.raises(HookError, match="chose no module"):
        compat.wrap_modules(model, lambda path, module: False)


def test_a_wrapper_runs_any_module() -> None:
    linear = nn.Linear(3, 2)
    wrapper = compat.HookWrapper(linear, "mine", lambda inputs, output, wrapper: output + 1)
    x = mx.ones((1, 3))
    assert mx.array_equal(wrapper(x), linear(x) + 1)
    assert mx.array_equal(wrapper.last_output, linear(x) + 1)
    assert wrapper.weight is linear.weight
    assert repr(wrapper) == "HookWrapper('mine', wrapped=Linear)"
    wrapper.enable_capture(False)
    wrapper.clear_cache()
    wrapper(x)
    assert wrapper.last_output is None


def test_modules_are_found_in_the_order_of_their_layers() -> None:
    found = compat.find_modules(demo(), lambda path, module: path.endswith("self_attn"))
    assert [path for path, _ in found] == [f"model.layers.{i}.self_attn" for i in range(6)]


def slow_pattern(q: Any, k: Any, n_heads: int, n_kv_heads: int, softcap: float | None) -> Any:
    """Entry by entry."""
    batch, seq, width = q.shape
    d_head = width // n_heads
    pattern = np.zeros((batch, n_heads, seq, seq))
    for b in range(batch):
        for h in range(n_heads):
            kv = h // (n_heads // n_kv_heads)
            for i in range(seq):
                one = q[b, i, h * d_head : (h + 1) * d_head]
                others = k[b, : i + 1, kv * d_head : (kv + 1) * d_head]
                scores = others @ one / d_head**0.5
                scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
                pattern[b, h, i, : i + 1] = np.exp(scores) / np.exp(scores).sum()
    return pattern


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_patterns_of_projections_equal_attention_worked_out_by_hand(softcap: float | None) -> None:
    q, k = mx.random.normal((2, 5, 12)), mx.random.normal((2, 5, 6))
    pattern = compat.compute_attention_patterns(q, k, n_heads=4, n_kv_heads=2, softcap=softcap)
    expected = slow_pattern(np.array(q), np.array(k), 4, 2, softcap)
    np.testing.assert_allclose(np.array(pattern), expected, atol=1e-5)
    with pytest.raises(ParameterError, match="4 query heads"):
        compat.compute_attention_patterns(q, k, n_heads=4)


def test_attention_info_of_any_model() -> None:
    info = compat.get_attention_info(tiny("gemma2").model)
    assert (info["n_layers"], info["n_heads"], info["n_kv_heads"], info["d_head"]) == (3, 4, 2, 16)
    assert info["softcap"] == 50.0
    assert compat.get_attention_info(tiny("gpt2"))["softcap"] is None
    for i in range(3):  # the prefix of 0.2 names the blocks of every architecture
        assert f"{info['layer_prefix']}.{i}" in tiny("gpt2").available_hooks()


def test_batched_activations_are_what_each_prompt_has_alone() -> None:
    prompts = [PROMPT, "mary", "the food was"]
    together = compat.batch_get_activations(demo(), prompts, 3)
    for prompt, found in zip(prompts, together, strict=True):
        alone = demo().run_with_cache(prompt, hooks=["model.layers.3"])[1]["model.layers.3"][0]
        assert found.shape == (len(demo().tokenize(prompt)), compat.get_hidden_dim(demo()))
        assert mx.allclose(found, alone, atol=1e-4)


def test_mediation_runs_from_nothing_to_everything() -> None:
    pair = {"source_prompt": PROMPT, "target_prompt": "the capital of peru is"}
    words = {"answer": "paris", "wrong_answer": "lima"}
    results = [
        mlux.causal_mediation(demo(), patch_layer=layer, **pair, **words) for layer in range(6)
    ]
    assert results[-1].patched == pytest.approx(results[-1].source, abs=1e-3)
    assert results[-1].proportion == pytest.approx(1, abs=1e-3)
    assert len({(result.source, result.target) for result in results}) == 1
    same = mlux.causal_mediation(demo(), PROMPT, PROMPT, 2, **words)
    assert same.indirect_effect == same.total_effect == 0.0
    with pytest.raises(ParameterError, match="Both prompts favour"):
        mlux.causal_mediation(demo(), PROMPT, PROMPT, 2)
    with pytest.raises(ParameterError, match="position is 0"):
        mlux.causal_mediation(demo(), **pair, patch_layer=2, position=0)


@pytest.fixture
def lens() -> LogitLens:
    return LogitLens(demo())


@pytest.mark.parametrize("position", [-1, 2])
def test_the_lens_at_the_last_layer_is_the_model(lens: LogitLens, position: int) -> None:
    layers = lens.get_layer_predictions(PROMPT, position, top_k=3)
    assert [layer["layer"] for layer in layers] == list(range(6))
    logits = demo().forward(PROMPT)[0, position]
    order = mx.argsort(-logits)[:3].tolist()
    predictions = layers[-1]["predictions"]
    assert [found["token_id"] for found in predictions] == order
    for found in predictions:
        assert found["logit"] == pytest.approx(float(logits[found["token_id"]].item()), abs=1e-3)
        assert found["probability"] == pytest.approx(
            float(mx.softmax(logits)[found["token_id"]].item()), abs=1e-4
        )
        assert found["token"] == demo().tokenizer.decode([found["token_id"]])


def test_one_forward_pass_serves_every_later_query(
    lens: LogitLens, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    run = HookedModel.run_with_cache

    def counted(self: HookedModel, x: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(x)
        return run(self, x, *args, **kwargs)

    monkeypatch.setattr(HookedModel, "run_with_cache", counted)
    for position in range(4):
        lens.get_layer_predictions(PROMPT, position)
    whole = lens.get_all_predictions(PROMPT, top_k=2)
    assert passes == [PROMPT]
    lens.get_layer_predictions("mary", -1)
    lens.get_layer_predictions(PROMPT, -1)
    assert passes == [PROMPT, "mary"]
    assert [token["token_id"] for token in whole["tokens"]] == demo().tokenize(PROMPT)
    for position in range(4):
        alone = lens.get_layer_predictions(PROMPT, position, top_k=2)
        for layer in range(6):
            together = whole["grid"][position][layer]
            expected = alone[layer]["predictions"]
            assert [p["token_id"] for p in together] == [p["token_id"] for p in expected]


def test_the_lens_reads_what_the_parts_add_too(lens: LogitLens) -> None:
    for probe in ("attn_out", "mlp_out"):
        assert lens.get_layer_predictions(PROMPT, -1, probe)[0]["probe_type"] == probe
    with pytest.raises(UnknownNameError, match="No probe type named 'residual'"):
        lens.get_layer_predictions(PROMPT, -1, "residual")
    with pytest.raises(ParameterError, match="there is no token 99"):
        lens.get_layer_predictions(PROMPT, 99)


class Numbers:
    """A tokenizer for the tiny models: a text is the numbers in it."""

    bos_token_id = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "granite"])
def test_the_lens_asks_any_model_s_own_head(name: str) -> None:
    model = HookedModel(tiny(name).model, Numbers())
    logits = model.forward([3, 5, 7])[0, -1]
    found = LogitLens(model).get_layer_predictions("3 5 7", -1, top_k=1)[-1]["predictions"][0]
    assert found["token"] == str(int(mx.argmax(logits).item()))
    assert found["logit"] == pytest.approx(float(mx.max(logits).item()), rel=1e-4)


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("attention", "compute_attention_patterns get_attention_info"),
        ("hook_wrapper", "HookFn HookWrapper PreHookFn"),
        ("hooked_model", "HookedModel"),
        ("utils", "iter_modules find_modules find_by_type find_by_name wrap_modules"),
        ("utils", "unwrap_modules collect_activations clear_all_caches"),
    ],
)
def test_the_module_paths_of_0_2_import(module: str, names: str) -> None:
    found = importlib.import_module(f"mlux.{module}")
    for name in names.split():
        assert getattr(found, name) is getattr(compat, name, getattr(found, name))


def test_modules_are_found_by_type_and_name_and_their_caches_cleared() -> None:
    from mlux.utils import clear_all_caches, find_by_name, find_by_type, iter_modules

    mlps = [path for path, _ in find_by_name(demo(), ".mlp") if path.endswith(".mlp")]
    assert mlps == [f"model.layers.{layer}.mlp" for layer in range(6)]
    assert [path for path, _ in find_by_type(demo(), type(demo().layers[0]))] == [
        f"model.layers.{layer}" for layer in range(6)
    ]
    assert set(mlps) < {path for path, _ in iter_modules(demo())}
    wrappers = compat.wrap_modules(demo(), lambda path, module: path == mlps[2])
    demo().forward(PROMPT)
    compat.unwrap_modules(demo())
    clear_all_caches(wrappers)
    assert compat.collect_activations(wrappers) == {}


def test_a_text_becomes_a_row_of_ids_as_in_0_2() -> None:
    ids = demo()._tokenize(PROMPT)
    assert ids.tolist() == [demo().tokenize(PROMPT)]
    assert demo()._tokenize(ids) is ids
