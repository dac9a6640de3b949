"""Function vectors against their definition, worked out one hook and one prompt at a time."""

from typing import Any

import mlx.core as mx
import pytest
from tiny import tiny

from mlux.engine import HookedModel, sites
from mlux.engine.batching import pad
from mlux.engine.passes import Hook
from mlux.errors import ParameterError, PromptError
from mlux.methods import budget
from mlux.methods.function_vectors import (
    function_vector,
    indirect_effects,
    logits_with_vectors,
    top_heads,
)
from mlux.methods.halves import Halves, other_heads, outputs_at_last

PROMPTS = ["hot → cold\nbig → small\nthin →", "dog → dogs\ncat → cats\nhat →"]


def at_last(value: mx.array, head: int | None = None) -> Hook:
    """Puts or adds something at the last token alone."""

    def edit(inputs: Any, output: mx.array, wrapper: Any) -> mx.array:
        edited = mx.array(output)
        if head is None:
            edited[:, -1] = edited[:, -1] + value
        else:
            edited[:, head, -1] = value
        return edited

    return edit


def probability(logits: mx.array, token: int) -> float:
    return float(mx.softmax(logits[0, -1].astype(mx.float32))[token])


def test_indirect_effects_are_those_of_a_plain_loop(demo: HookedModel) -> None:
    answer = demo.tokenize("thick")[-1]
    ids = demo.tokenize(PROMPTS[0])
    mx.random.seed(3)
    means = {layer: mx.random.normal((4, 32)) for layer in (0, 3, 5)}
    found = indirect_effects(demo, ids, means, answer)
    with pytest.raises(ParameterError, match=r"one prompt of \d+ tokens needs"):
        indirect_effects(demo, ids, means, answer, memory=1)
    (least, *_) = budget._measured[demo]["last token", len(ids)]
    tight = indirect_effects(demo, ids, means, answer, memory=int(1.5 * least))  # row by row
    before = probability(demo.forward([ids]), answer)
    for layer, mean in means.items():
        for head in range(4):
            hooks = [(sites.tap(layer, "z"), at_last(mean[head], head))]
            after = probability(demo.run_with_hooks([ids], hooks=hooks), answer)
            assert found[layer][head] == pytest.approx(after - before, abs=2e-5)
            assert tight[layer][head] == pytest.approx(after - before, abs=2e-5)


@pytest.mark.parametrize("name", ["gemma2", "granite", "deepseek_v3", "gpt2"])
def test_a_heads_own_output_changes_nothing(name: str) -> None:
    """Patching every head of a prompt into itself: an effect of 0 up to rounding."""
    model, ids = tiny(name), [3, 5, 7, 11, 13]
    outputs = outputs_at_last(model, [ids])
    effects = indirect_effects(model, ids, {layer: z[0] for layer, z in outputs.z.items()}, 42)
    assert max(abs(effect) for row in effects.values() for effect in row) < 1e-6


def test_a_vector_is_added_at_the_last_token_of_each_row(demo: HookedModel) -> None:
    batch = demo.to_batch([*PROMPTS, "big →"])
    mx.random.seed(4)
    vectors = mx.random.normal((3, 128))
    for layer, logits in logits_with_vectors(demo, batch, vectors):
        for row, text in enumerate([*PROMPTS, "big →"]):
            hooks = [] if layer is None else [(sites.resid_post(layer), at_last(vectors[row]))]
            alone = demo.run_with_hooks(text, hooks=hooks)[0, -1]
            assert mx.allclose(logits[row], alone, atol=1e-3)


@pytest.mark.parametrize("name", ["gemma2", "granite", "deepseek_v3", "gpt2"])
def test_what_comes_before_a_vector_is_read_once(name: str) -> None:
    """Prompts of one length share their caches; the numbers are those of whole prompts."""
    model = tiny(name)
    rows = [[3 + (7 * step * row) % 40 for step in range(12)] for row in (1, 2, 3)]
    mx.random.seed(5)
    vectors = mx.random.normal((3, model.config["d_model"]))
    seen = []
    for layer, logits in logits_with_vectors(model, pad(rows), vectors):
        for row, ids in enumerate(rows):
            hooks = [] if layer is None else [(sites.resid_post(layer), at_last(vectors[row]))]
            alone = model.run_with_hooks([ids], hooks=hooks)[0, -1]
            assert mx.allclose(logits[row], alone, atol=1e-4)
        seen.append(layer)
    assert seen == [None, *range(len(model.layers))]


def test_half_precision_keeps_its_dtype() -> None:
    model = HookedModel.from_pretrained("demo", dtype="bfloat16")
    batch = model.to_batch(PROMPTS)
    for _, logits in logits_with_vectors(model, batch, mx.ones((2, 128)), layers=[1]):
        assert logits.dtype == mx.bfloat16
    answer = model.tokenize("thick")[-1]
    means = {1: mx.zeros((4, 32))}
    assert len(indirect_effects(model, model.tokenize(PROMPTS[0]), means, answer)[1]) == 4


def test_a_function_vector_is_the_sum_of_its_heads_outputs(demo: HookedModel) -> None:
    outputs = outputs_at_last(demo, [demo.tokenize(text) for text in PROMPTS])
    heads = [(1, 3), (3, 2), (3, 3)]
    vector = function_vector({layer: rows[0] for layer, rows in outputs.added.items()}, heads)
    by_hand = mx.zeros((128,))
    for layer, head in heads:
        path = sites.head(layer, head)
        _, cache = demo.run_with_cache(PROMPTS[0], hooks=[path])
        weight = demo.layers[layer].self_attn.o_proj.weight  # [d_model, n_heads · d_head]
        by_hand = by_hand + weight[:, 32 * head : 32 * head + 32] @ cache[path][0, -1]
    assert mx.allclose(vector, by_hand, atol=1e-4)


def test_halves_never_use_a_prompt_for_itself(demo: HookedModel) -> None:
    halves = Halves.of(["a", "b", "a", "a", "b", "a", "b", "b"])
    assert halves.members == {
        ("a", 0): [0, 3],
        ("a", 1): [2, 5],
        ("b", 0): [1, 6],
        ("b", 1): [4, 7],
    }
    vectors = {key: mx.array(float(i)) for i, key in enumerate(halves.members)}
    others = [float(v) for v in halves.for_others(vectors) if v is not None]
    assert others == [1.0, 3.0, 0.0, 1.0, 2.0, 0.0, 3.0, 2.0]
    assert halves.for_others({("a", 0): mx.array(1.0)})[1] is None
    effects = {0: [[float(i)] for i in range(8)]}
    # Of each task first, so that a task with many prompts does not outweigh the others.
    assert halves.average(effects, 0) == {0: [((0 + 3) / 2 + (1 + 6) / 2) / 2]}
    with pytest.raises(PromptError, match=r"at least 4 prompts of each task.*'a' has 3"):
        Halves.of(["a", "a", "a"])


def test_the_mean_that_is_put_in_leaves_its_own_prompt_out(demo: HookedModel) -> None:
    texts = ["hot → cold\nbig →", "up → down\nbig →", "in → out\nbig →", "old → young\nbig →"]
    rows = [demo.tokenize(text) for text in texts]
    clean = outputs_at_last(demo, rows)
    small = demo.tokenize("small")[-1]
    effects = Halves.of(["antonym"] * 4).effects(demo, rows, [small] * 4, clean)
    # Prompts 0 and 2 are one half: what is put into 0 is what 2 alone holds.
    alone = indirect_effects(demo, rows[0], {3: clean.z[3][2]}, small)
    assert effects[3][0] == pytest.approx(alone[3], abs=1e-6)


def test_top_heads_are_sorted_and_random_ones_are_others(demo: HookedModel) -> None:
    effects = {0: [0.1, 0.5], 2: [0.5, 0.2]}
    assert top_heads(effects, 3) == [(0, 1), (2, 0), (2, 1)]
    with pytest.raises(ParameterError, match="n_heads is 5; this model has 4 heads"):
        top_heads(effects, 5)
    chosen = [(1, 3), (3, 2)]
    drawn = other_heads(demo, chosen, "seed")
    assert len(drawn) == 2
    assert not set(drawn) & set(chosen)
    assert drawn == other_heads(demo, chosen, "seed")
