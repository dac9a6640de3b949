"""Bridge and answer by the lens, back-patching and entity binding, against plain loops."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlux import prompts
from mlux.engine import HookedModel, HookWrapper, sites
from mlux.engine.passes import Hook
from mlux.engine.spans import subject_span
from mlux.engine.trials import EncodedPrompt, encode
from mlux.errors import PromptError
from mlux.methods.entity_binding import Binding, exchange, exchanged, find_binding
from mlux.methods.prompt_rows import edited_prompts, prompts_pass
from mlux.methods.sweeps import Edit
from mlux.methods.two_hop import back_patches, entity_lens

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from tiny import TOKENS, tiny  # the tiny models of the engine's tests

FAMILIES = ("gemma2", "qwen3", "gpt_neox")


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return HookedModel.from_pretrained("demo")


def encoded(model: HookedModel, name: str, count: int) -> list[EncodedPrompt]:
    """Prompts of one length."""
    found = [encode(model, prompt) for prompt in prompts.load(name).prompts]
    return [one for one in found if len(one.ids) == len(found[0].ids)][:count]


def hook(value: mx.array, place: Any) -> Hook:
    def replace(inputs: Any, output: mx.array, wrapper: HookWrapper) -> mx.array:
        changed = mx.array(output)
        changed[0, place] = value
        return changed

    return replace


def loop_back_patch(
    model: HookedModel, ids: Sequence[int], source: int, target: int, position: int
) -> mx.array:
    """One prompt, one pair of layers, the whole model from the tokens on."""
    _, cache = model.run_with_cache(mx.array([ids]), hooks=[sites.resid_post(source)])
    value = cache[sites.resid_post(source)][0, position]
    return model.run_with_hooks(
        mx.array([ids]), hooks=[(sites.resid_post(target), hook(value, position))]
    )[0, -1]


def test_back_patching_equals_a_plain_loop(model: HookedModel) -> None:
    chosen = encoded(model, "two_hop", 3)
    positions = [subject_span(model.tokenizer, one)[1] - 1 for one in chosen]
    base = prompts_pass(model, mx.array([one.ids for one in chosen]), site="resid_post")
    for source in (2, 5):
        patches = back_patches(
            model, base, source_layer=source, targets=[0, 1], positions=positions
        )
        for target, logits in patches:
            for row, one in enumerate(chosen):
                slow = loop_back_patch(model, one.ids, source, target, positions[row])
                assert mx.allclose(logits[row], slow, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_they_hold_on_other_families(family: str) -> None:
    model = tiny(family)
    base = prompts_pass(model, TOKENS, site="resid_post")
    ((_, logits),) = back_patches(model, base, source_layer=2, targets=[0], positions=[3, 5])
    for row, position in enumerate((3, 5)):
        slow = loop_back_patch(model, TOKENS[row].tolist(), 2, 0, position)  # type: ignore[arg-type] # of a 1-d array
        assert mx.allclose(logits[row], slow, atol=1e-3, rtol=1e-3)
    for target, logits in back_patches(model, base, source_layer=1, targets=[1], positions=[3, 5]):
        assert target == 1
        assert mx.array_equal(logits, base.logits), "a layer put into itself changes not one bit"
    pre = prompts_pass(model, TOKENS, site="resid_pre")
    swapped = mx.array(TOKENS)
    swapped[:, 1], swapped[:, 4] = TOKENS[:, 4], TOKENS[:, 1]
    ((_, logits),) = exchanged(model, pre, [[((1, 2), (4, 5))]] * 2, layers=[0])
    expected = model.forward(swapped)[:, -1]
    assert mx.allclose(logits, expected, atol=1e-3, rtol=1e-3), "words that change places"


def test_edits_of_prompts_are_one_for_each() -> None:
    model = tiny("llama")
    base = prompts_pass(model, TOKENS, site="resid_post")
    edits = [Edit(site="resid_post", layer=layer) for layer in (0, 1)]
    for wrong in (edits, edits[:1]):
        with pytest.raises(ValueError, match=r"\d edits in \d layers for 2 prompts"):
            edited_prompts(model, base, base.cache, wrong)


def test_the_lens_of_an_entity_is_the_models_own_head(model: HookedModel) -> None:
    chosen = encoded(model, "two_hop", 2)
    tokens = mx.array([one.ids for one in chosen])
    positions, entities = [6, tokens.shape[1] - 1], [40, chosen[1].answer or 0]
    readouts = list(entity_lens(model, tokens, positions=mx.array(positions), entities=entities))
    paths = [sites.resid_post(layer) for layer in range(6)]
    logits, cache = model.run_with_cache(tokens, hooks=paths)
    for readout in readouts:
        lens = logits if readout.layer == 5 else model.unembed(cache[paths[readout.layer]])
        for row, position in enumerate(positions):
            scores = lens[row, position]
            rank = int((scores >= scores[entities[row]]).sum()) - 1
            assert int(readout.rank[row]) == rank
            slow = scores[entities[row]] - mx.logsumexp(scores)
            assert float(readout.logprob[row]) == pytest.approx(float(slow), abs=1e-4)


# Entity binding


def binding_of(model: HookedModel, one: EncodedPrompt) -> Binding:
    ids, corrupted = one.ids, one.corrupted
    assert corrupted is not None
    words = [model.tokenizer.decode([token]) for token in ids]
    place = words.index(str(one.prompt.label))
    return find_binding(
        ids,
        corrupted,
        subject=subject_span(model.tokenizer, one, first=True),
        attribute=(place, place + 1),
    )


def test_both_entities_and_attributes_are_found(model: HookedModel) -> None:
    for one in encoded(model, "two_hop_in_context", 99):
        binding = binding_of(model, one)
        words = [model.tokenizer.decode([token]) for token in one.ids]
        clauses = [clause.split() for clause in one.prompt.text.split(" . ")[:2]]
        assert [words[a] for a, _ in binding.entities] == [clause[0] for clause in clauses]
        assert [words[a] for a, _ in binding.attributes] == [clause[-1] for clause in clauses]


def test_an_exchange_equals_a_plain_loop(model: HookedModel) -> None:
    chosen = encoded(model, "two_hop_in_context", 3)
    spans = [[binding_of(model, one).attributes] for one in chosen]
    base = prompts_pass(model, mx.array([one.ids for one in chosen]), site="resid_pre")
    for layer, logits in exchanged(model, base, spans, layers=[1, 3]):
        for row, one in enumerate(chosen):
            (((a, _), (b, _)),) = spans[row]
            path = sites.resid_pre(layer)
            _, cache = model.run_with_cache(mx.array([one.ids]), hooks=[path])
            held = cache[path][0]
            hooks = [(path, hook(held[b], a)), (path, hook(held[a], b))]
            slow = model.run_with_hooks(mx.array([one.ids]), hooks=hooks)[0, -1]
            assert mx.allclose(logits[row], slow, atol=1e-3)


def test_a_stretch_of_tokens_changes_places_token_by_token() -> None:
    edits = exchange(((1, 3), (5, 7)), site="resid_pre", layer=0)
    assert {(e.position, e.source_position) for e in edits} == {(1, 5), (5, 1), (2, 6), (6, 2)}


@pytest.mark.parametrize(
    ("corrupted", "subject", "attribute", "message"),
    [
        ((0, 1, 5, 3, 1), (3, 4), (5, 6), r"has 7 tokens and the corrupted one 5"),
        ((0, 1, 9, 3, 1, 2, 7), (3, 4), (5, 6), r"differ in 2 stretches of tokens, which are not"),
        ((0, 1, 2, 3, 1, 9, 7), (3, 4), (5, 6), r"differ in 1 stretches"),
        ((0, 1, 5, 3, 1, 2, 7), (3, 4), (6, 7), r"attribute is not one of the two"),
        ((0, 1, 5, 3, 1, 2, 7), (1, 2), (5, 6), r"No second entity"),
    ],
)
def test_what_binds_nothing_is_refused(
    corrupted: tuple[int, ...],
    subject: tuple[int, int],
    attribute: tuple[int, int],
    message: str,
) -> None:
    with pytest.raises(PromptError, match=message):
        find_binding((0, 1, 2, 3, 1, 5, 7), corrupted, subject=subject, attribute=attribute)
