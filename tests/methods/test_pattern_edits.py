"""Edits of attention patterns: a pattern is replaced where an edit says so, and nowhere else."""

import copy
import random
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlux.engine import HookedModel, HookWrapper, sites
from mlux.methods.ablation import ablation, mean_patterns, means, zeros
from mlux.methods.edits import Edit, Row, edits_of, every_edit
from mlux.methods.patching import elsewhere
from mlux.methods.sweeps import base_pass, sweep, sweep_edits

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from architectures import build
from tiny import TOKENS, tiny  # the tiny models of the engine's tests

IDS, OTHERS = TOKENS.tolist()
SEQ = len(IDS)
FAMILIES = [
    "llama",  # two query heads share a key and value
    "gemma2",  # a softmax of its own, soft-capped
    "gemma3_text",  # sliding windows
    "gpt_oss",  # attention sinks
    "deepseek_v3",  # values of another width than keys
    "lfm2",  # convolutions beside attention
    "llama bfloat16",
    "gemma2 float16",
    "demo-4bit",
]


def family(name: str) -> HookedModel:
    name, _, dtype = name.partition(" ")
    if name == "demo-4bit":
        return HookedModel.from_pretrained(name)
    model = build(name) if name in ("lfm2", "gpt_oss") else tiny(name)
    if not dtype:
        return model
    module = copy.deepcopy(model.model)
    module.set_dtype(getattr(mx, dtype))
    return HookedModel(module, None, config=dict(model._raw_config))


def plain_loop(model: HookedModel, row: Row) -> mx.array:
    """The last logits of one pass from the tokens on, with what a hook puts where the edits say."""
    hooks = []
    for edit in edits_of(row):
        _, cache = model.run_with_cache([OTHERS], hooks=[edit.source_path])

        def put(
            inputs: Any, output: mx.array, wrapper: HookWrapper, e: Edit = edit, cache: Any = cache
        ) -> mx.array:
            output = output[...]
            whole = slice(None)
            here = whole if e.position is None else e.position
            there = here if e.source_position is None else e.source_position
            head = e.head if e.source_head is None else e.source_head
            output[:, e.head, here] = cache[e.source_path][:, head, there]
            return output

        hooks.append((edit.path, put))
    return model.run_with_hooks([IDS], hooks=hooks)[0, -1]


@pytest.mark.parametrize("name", FAMILIES)
def test_patterns_by_head_and_position_equal_the_plain_loop(name: str) -> None:
    model = family(name)
    rows: list[Row] = [*every_edit(model, "pattern", SEQ, by_position=False)]
    rows += every_edit(model, "pattern", SEQ, by_position=True)[3::11]
    layer = rows[-1].layer  # type: ignore[union-attr] # all are one edit so far
    rows += [
        Edit(site="pattern", layer=layer, head=1, source_head=2),
        Edit(site="pattern", layer=layer, head=1, position=6, source_position=2),
        (
            Edit(site="q", layer=layer, head=0),
            Edit(site="pattern", layer=layer, head=1, position=SEQ - 1),
            Edit(site="pattern", layer=layer, head=2),
        ),
    ]
    bound = {"float16": 2e-2, "bfloat16": 2e-1}.get(model.config["dtype"], 2e-4)
    moved = 0.0
    for part in sweep_edits(model, IDS, rows, source=OTHERS):
        for i, row in enumerate(part.rows):
            alone = plain_loop(model, row)
            assert mx.allclose(part.logits[i], alone, atol=bound), row
            moved = max(moved, mx.max(mx.abs(alone - part.base[i])).item())  # type: ignore[type-var] # of a scalar
    assert moved > 5 * bound  # these patches do something


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pattern_patched_into_its_own_run_changes_not_one_bit(name: str) -> None:
    """Though an edited pattern is multiplied by another kernel than the model's own."""
    model = family(name)
    edits: list[Row] = [
        *every_edit(model, "pattern", SEQ, by_position=False),
        *every_edit(model, "pattern", SEQ, by_position=True),
    ]
    edits.append(tuple(every_edit(model, "pattern", SEQ, by_position=False)))  # all of them at once
    seen = 0
    for part in sweep_edits(model, IDS, edits, source=IDS):
        assert mx.array_equal(part.logits, part.base)
        seen += len(part.rows)
    assert seen == len(edits)


@pytest.mark.parametrize("name", ["llama", "gemma2 float16", "llama bfloat16"])
def test_what_is_not_edited_keeps_the_models_own_z(name: str) -> None:
    model = family(name)
    z, pattern = sites.tap(1, "z"), sites.tap(1, "pattern")
    _, bare = model.run_with_cache(TOKENS, hooks=[z])

    def look_back(inputs: Any, output: mx.array, wrapper: HookWrapper) -> mx.array:
        output = output[...]
        output[0, 1, 3] = mx.arange(SEQ) == 0
        return output

    _, edited = model.run_with_cache(TOKENS, hooks=[z], edits=[(pattern, look_back)])
    same = mx.all(edited[z] == bare[z], axis=-1)  # [batch, n_heads, query]
    assert not same[0, 1, 3].item()
    assert mx.sum(same).item() == same.size - 1


def test_rows_beside_an_edited_pattern_are_what_they_are_without_it() -> None:
    """In half precision too, where the two kernels differ most."""
    model = family("llama bfloat16")
    base, source = (
        base_pass(model, ids, rows=2, position=SEQ - 1, site=("pattern", "mlp_out"))
        for ids in (IDS, OTHERS)
    )
    other = Edit(site="mlp_out", layer=1, position=5)
    beside = []
    for first in (Edit(site="pattern", layer=1, head=2), other):
        ((_, logits),) = sweep(model, base, source.cache, [first, other], position=SEQ - 1)
        beside.append(logits)
    assert mx.array_equal(beside[0][1], beside[1][1])
    assert not mx.array_equal(beside[0][0], beside[1][0])


def test_no_pattern_looks_ahead() -> None:
    with pytest.raises(ValueError, match="position 4 would let position 3 look ahead"):
        Edit(site="pattern", layer=0, head=1, position=3, source_position=4)
    model = tiny("llama")
    edits = every_edit(model, "pattern", SEQ, by_position=True)
    control = elsewhere(model, edits, SEQ, random.Random(0))
    assert [edit.position for edit in control] == [edit.position for edit in edits]
    assert all(edit.source_head not in (None, edit.head) for edit in control)


def test_a_mean_pattern_is_over_other_prompts_of_as_many_tokens() -> None:
    model = tiny("gemma2")
    found = mean_patterns(model, [IDS, OTHERS, IDS[:3], IDS[:5], IDS[:5]])
    assert list(found) == [SEQ]
    for layer, patterns in model.get_attention_patterns(TOKENS).items():
        mean = found[SEQ][sites.tap(layer, "pattern")]
        assert mx.allclose(mean, mx.mean(patterns, axis=0, keepdims=True), atol=1e-6)
        assert mx.max(mx.abs(mx.triu(mean, k=1))).item() == 0.0
    with pytest.raises(ValueError, match="mean_patterns has one over prompts"):
        means(model, [IDS], ["head", "pattern"])


@pytest.mark.parametrize("name", ["llama", "gemma2", "lfm2"])
@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
def test_ablation_of_patterns_equals_a_plain_loop(name: str, kind: str) -> None:
    model = family(name)
    edits = every_edit(model, "pattern", SEQ, by_position=False)
    paths = {edit.path for edit in edits}
    _, cache = model.run_with_cache(TOKENS, hooks=paths)
    by_kind: dict[str, tuple[Any, Any]] = {
        "zero": (zeros(edits), lambda both: mx.zeros_like(both[:1])),
        "mean": (
            mean_patterns(model, [IDS, OTHERS])[SEQ],
            lambda both: mx.mean(both, axis=0, keepdims=True),
        ),
        "resample": (OTHERS, lambda both: both[1:]),
    }
    source, instead = by_kind[kind]
    for found in ablation(model, IDS, edits, source=source, answer=5, wrong_answer=9):
        (edit,) = edits_of(found.row)

        def put(inputs: Any, output: mx.array, wrapper: HookWrapper, e: Edit = edit) -> mx.array:
            output = output[...]
            output[:, e.head] = instead(cache[e.path])[:, e.head]
            return output

        logits = model.run_with_hooks([IDS], hooks=[(edit.path, put)])[0, -1]
        log_p = logits - mx.logsumexp(logits)
        assert found.loss == pytest.approx(-log_p[5].item(), abs=1e-3)
        assert found.logit_diff == pytest.approx((logits[5] - logits[9]).item(), abs=1e-3)


def test_a_head_without_a_pattern_is_a_head_without_a_z() -> None:
    model = tiny("llama")
    lost = []
    for site in ("pattern", "head"):
        edits = every_edit(model, site, SEQ, by_position=False)  # type: ignore[arg-type] # both are sites
        lost.append(
            [one.loss for one in ablation(model, IDS, edits, source=zeros(edits), answer=5)]
        )
    assert lost[0] == pytest.approx(lost[1], abs=1e-4)
