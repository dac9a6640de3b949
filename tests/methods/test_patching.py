"""Activation patching against its definition and against a plain loop over hooks."""

import random
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import pytest

from mlux import prompts
from mlux.engine import HookedModel, HookWrapper
from mlux.engine.passes import Hook
from mlux.engine.trials import EncodedPrompt, encode
from mlux.errors import ParameterError, PromptError
from mlux.methods.ablation import logits_without
from mlux.methods.patching import (
    PatchingResult,
    activation_patching,
    every_edit,
    every_head,
    random_sets,
)
from mlux.methods.sweeps import (
    SITES,
    Edit,
    Kept,
    Row,
    SiteName,
    base_pass,
    base_passes,
    edits_of,
    inputs_of,
    path_of,
    sweep,
)


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return HookedModel.from_pretrained("demo")


@pytest.fixture(scope="module")
def pair(model: HookedModel) -> EncodedPrompt:
    return encode(model, prompts.load("ioi").prompts[1])


def patch(
    model: HookedModel,
    pair: EncodedPrompt,
    edits: Sequence[Row],
    *,
    source: tuple[int, ...] | None = None,
) -> PatchingResult:
    assert pair.corrupted is not None
    assert pair.answer is not None
    assert pair.wrong_answer is not None
    return activation_patching(
        model,
        source or pair.ids,
        pair.corrupted,
        answer=pair.answer,
        wrong_answer=pair.wrong_answer,
        edits=edits,
    )


@pytest.mark.parametrize("site", SITES)
def test_patching_everything_gives_exactly_the_clean_run(
    model: HookedModel, pair: EncodedPrompt, site: SiteName
) -> None:
    """The whole residual stream of any layer is everything that the rest of the model sees."""
    if site in ("resid_pre", "resid_post"):
        edits = [Edit(site=site, layer=layer) for layer in range(6)]
        result = patch(model, pair, edits)
        assert [effect for _, _, effect, *_ in result.effects] == [1.0] * 6
        assert [logit_diff for _, logit_diff, *_ in result.effects] == [result.clean] * 6
    else:  # one layer's attention, MLP or head is only part of it
        result = patch(model, pair, [Edit(site=site, layer=0, head=0 if site == "head" else None)])
        assert result.effects[0][2] != 1.0


@pytest.mark.parametrize("site", SITES)
def test_patching_a_run_into_itself_changes_not_one_bit(
    model: HookedModel, pair: EncodedPrompt, site: SiteName
) -> None:
    assert pair.corrupted is not None
    edits = every_edit(model, site, len(pair.ids), by_position=site != "head")
    for lanes in (1, 2, 3):
        base, again = base_passes(
            model,
            [
                Kept(ids=pair.corrupted, paths=inputs_of(range(6))),
                Kept(ids=pair.corrupted, paths={edit.path: None for edit in edits}),
            ],
            rows=16,
            position=len(pair.ids) - 1,
            lanes=lanes,
        )
        parts = list(sweep(model, base, again.cache, edits, position=len(pair.ids) - 1))
        assert [row for chunk, _ in parts for row in chunk] == edits
        for chunk, logits in parts:
            assert mx.array_equal(logits[: len(chunk)], base.logits[: len(chunk)])


@pytest.mark.parametrize("site", SITES)
def test_the_sweep_equals_a_plain_loop_over_hooks(
    model: HookedModel, pair: EncodedPrompt, site: SiteName
) -> None:
    edits = every_edit(model, site, len(pair.ids), by_position=True)[::7]
    result = patch(model, pair, edits)
    clean = loop_logit_diff(model, pair, pair.ids, [])
    corrupted = loop_logit_diff(model, pair, pair.corrupted, [])
    assert result.clean == pytest.approx(clean, rel=1e-4)
    assert result.corrupted == pytest.approx(corrupted, rel=1e-4)
    for row, logit_diff, effect, *_ in result.effects:
        patched = loop_logit_diff(model, pair, pair.corrupted, list(edits_of(row)))
        assert logit_diff == pytest.approx(patched, abs=2e-4)
        assert effect == pytest.approx((patched - corrupted) / (clean - corrupted), abs=2e-4)


def loop_logit_diff(model: HookedModel, pair: EncodedPrompt, ids: Any, edits: list[Edit]) -> float:
    """One patch at a time, the whole model from the tokens on."""
    hooks = []
    for edit in edits:
        path = path_of(edit.site, edit.layer)
        _, source = model.run_with_cache(mx.array([pair.ids]), hooks=[path])
        heads = () if edit.head is None else (edit.head,)
        place = (0, *heads, slice(None) if edit.position is None else edit.position)
        hooks.append((path, replacer(source[path], place)))
    logits = model.run_with_hooks(mx.array([ids]), hooks=hooks)[0, -1]
    return float(logits[pair.answer] - logits[pair.wrong_answer])


def replacer(source: mx.array, place: tuple[Any, ...]) -> Hook:
    def replace(inputs: Any, output: mx.array, wrapper: HookWrapper) -> mx.array:
        patched = mx.array(output)
        patched[place] = source[place]
        return patched

    return replace


def test_small_batches_give_the_same_effects(model: HookedModel, pair: EncodedPrompt) -> None:
    position = len(pair.ids) - 1
    edits = every_edit(model, "attn_out", len(pair.ids), by_position=True)[:20]
    by_rows = []
    for rows in (3, 20):
        base = base_pass(model, pair.corrupted or (), rows=rows, position=position, site="attn_out")
        source = base_pass(model, pair.ids, rows=rows, position=position, site="attn_out")
        parts = sweep(model, base, source.cache, edits, position=position)
        by_rows.append(mx.concatenate([logits[: len(chunk)] for chunk, logits in parts]))
    assert mx.allclose(*by_rows, atol=1e-3)


def test_what_cannot_be_patched_is_refused(model: HookedModel, pair: EncodedPrompt) -> None:
    edits = [Edit(site="resid_pre", layer=0)]
    with pytest.raises(PromptError, match=r"the clean one has \d+ tokens and the corrupted"):
        patch(model, pair, edits, source=pair.ids[:-1])
    with pytest.raises(PromptError, match="same logit difference"):
        patch(model, pair, edits, source=pair.corrupted)


def test_edits_of_one_row_are_made_together(model: HookedModel, pair: EncodedPrompt) -> None:
    """Several heads, layers and sites in one row are several hooks in one loop pass."""
    rows: list[Row] = [
        tuple(
            Edit(site="head", layer=layer, head=head) for layer, head in ((0, 1), (0, 2), (3, 0))
        ),
        (Edit(site="mlp_out", layer=2, position=4), Edit(site="head", layer=1, head=1, position=9)),
        Edit(site="resid_pre", layer=1, position=10),
    ]
    result = patch(model, pair, rows)
    assert len(result.effects) == len(rows)
    for row, logit_diff, *_ in result.effects:
        alone = loop_logit_diff(model, pair, pair.corrupted, list(edits_of(row)))
        assert logit_diff == pytest.approx(alone, abs=2e-4)


def test_a_replacement_may_come_from_another_layer_and_position(
    model: HookedModel, pair: EncodedPrompt
) -> None:
    position = len(pair.ids) - 1
    base, source = (
        base_pass(model, ids, rows=2, position=position, site="resid_post")
        for ids in (pair.ids, pair.corrupted or ())
    )
    edits = [
        Edit(site="resid_post", layer=1, position=10, source_layer=4),
        Edit(site="resid_post", layer=1, position=10, source_position=3),
    ]
    ((chunk, logits),) = sweep(model, base, source.cache, edits, position=position)
    assert chunk == tuple(edits)
    for row, (layer, place) in enumerate(((4, 10), (1, 3))):
        taken = source.cache[path_of("resid_post", layer)][row, place]

        def put(
            inputs: Any, output: mx.array, wrapper: HookWrapper, taken: Any = taken
        ) -> mx.array:
            output[:, 10] = taken
            return output

        hooks = [(path_of("resid_post", 1), put)]
        alone = model.run_with_hooks(mx.array([pair.ids]), hooks=hooks)[0, -1]
        assert mx.allclose(logits[row], alone, atol=1e-3)


def test_any_arrays_can_be_the_source(model: HookedModel, pair: EncodedPrompt) -> None:
    """Zeros in place of a head are zero ablation."""
    position = len(pair.ids) - 1
    base = base_pass(model, pair.ids, rows=1, position=position, site="head")
    zeros = {path_of("head", 2): mx.zeros((1, 1, 1, 1))}
    edits = [Edit(site="head", layer=2, head=3)]
    ((_, logits),) = sweep(model, base, zeros, edits, position=position)
    alone = logits_without(model, mx.array([pair.ids]), [(2, 3)])[0, -1]
    assert mx.allclose(logits[0], alone, atol=1e-3)


def test_more_heads_than_half_have_no_control(model: HookedModel) -> None:
    heads = every_head(model)
    assert len(random_sets(model, heads[:12], 2, random.Random(0))[1]) == 12
    with pytest.raises(ParameterError, match=r"13 of 24 heads are chosen.* at most 12\."):
        random_sets(model, heads[:13], 1, random.Random(0))
