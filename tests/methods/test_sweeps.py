"""A planned sweep gives what a plain loop gives, and keeps to the memory that it is given."""

import gc
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlux.engine import HookedModel, HookWrapper, memory
from mlux.errors import ParameterError, PromptError
from mlux.methods import budget as budgets
from mlux.methods.edits import HEAD_SITES, Edit, SiteName
from mlux.methods.sweeps import every_edit, sweep_edits

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from architectures import build
from tiny import TOKENS, tiny  # the tiny models of the engine's tests

CLEAN = "then george and sarah met at the park and sarah passed a letter to"
CORRUPTED = "then george and sarah met at the park and george passed a letter to"


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return HookedModel.from_pretrained("demo")


def swept(model: HookedModel, site: SiteName, **options: Any) -> tuple[dict[Any, mx.array], int]:
    """Row → logits, and the peak beyond what was there before and what is handed out."""
    ids, others = model.tokenize(CLEAN), model.tokenize(CORRUPTED)
    edits = every_edit(model, site, len(ids), by_position=site not in HEAD_SITES)
    edits = [edit for edit in edits if edit.layer in (0, 4)]
    gc.collect()
    memory.reset_peak()
    before = mx.get_active_memory()
    found: dict[Any, mx.array] = {}
    for part in sweep_edits(model, ids, edits, source=others, **options):
        found |= {row: mx.array(part.logits[i].tolist()) for i, row in enumerate(part.rows)}
    return found, memory.peak() - before - sum(array.nbytes for array in found.values())


@pytest.mark.parametrize("site", ["head", "resid_pre", "mlp_out", "k", "pattern"])
def test_the_peak_stays_under_every_budget_with_the_same_logits(
    model: HookedModel, site: SiteName
) -> None:
    budgets._measured.pop(model, None)
    with pytest.raises(ParameterError, match=r"one prompt of 15 tokens needs [\d.]+ KiB"):
        swept(model, site, memory=1)
    least = next(iter(budgets._measured[model].values()))[0]
    reference, _ = swept(model, site)
    for rows in (1.6, 2.6, 6, 20):
        budget = int(rows * least)
        for fresh in (True, False):  # with the measurement that comes first, and without
            if fresh:
                budgets._measured.pop(model)
            found, peak = swept(model, site, memory=budget)
            assert peak <= budget
            for row, logits in found.items():
                assert mx.allclose(logits, reference[row], atol=1e-3)


def test_a_bigger_budget_is_used(model: HookedModel) -> None:
    peaks = [swept(model, "attn_out", memory=size << 20)[1] for size in (1, 1024)]
    assert 2 * peaks[0] < peaks[1]


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox", "deepseek_v3", "lfm2"])
@pytest.mark.parametrize("site", ["q", "k", "v", "head"])
def test_heads_of_other_architectures_equal_the_plain_loop(family: str, site: SiteName) -> None:
    model = build(family) if family == "lfm2" else tiny(family)  # convolutions beside attention
    ids, others = TOKENS.tolist()
    edits = every_edit(model, site, len(ids), by_position=False)
    _, cache = model.run_with_cache(mx.array([others]), hooks=[edit.path for edit in edits])
    for part in sweep_edits(model, ids, edits, source=others):
        for i, edit in enumerate(part.rows):
            assert isinstance(edit, Edit)

            def put(inputs: Any, output: mx.array, wrapper: HookWrapper, e: Edit = edit) -> Any:
                output = output[...]
                output[:, e.head] = cache[e.path][:, e.head]
                return output

            alone = model.run_with_hooks(mx.array([ids]), hooks=[(edit.path, put)])[0, -1]
            assert mx.allclose(part.logits[i], alone, atol=1e-4)


def test_a_replacement_may_come_from_another_head(model: HookedModel) -> None:
    ids, others = model.tokenize(CLEAN), model.tokenize(CORRUPTED)
    edit = Edit(site="head", layer=3, head=1, source_head=2)
    (part,) = sweep_edits(model, ids, [edit], source=others)
    _, cache = model.run_with_cache(mx.array([others]), hooks=[edit.path])

    def put(inputs: Any, output: mx.array, wrapper: HookWrapper) -> mx.array:
        output = output[...]
        output[:, 1] = cache[edit.path][:, 2]
        return output

    alone = model.run_with_hooks(mx.array([ids]), hooks=[(edit.path, put)])[0, -1]
    assert mx.allclose(part.logits[0], alone, atol=1e-4)


def test_what_makes_no_sense_is_refused(model: HookedModel) -> None:
    for wrong in (
        {"site": "head", "layer": 0, "source_head": 1},
        {"site": "attn_out", "layer": 0, "head": 1},
        {"site": "attn_out", "layer": 0, "source_position": 1},
    ):
        with pytest.raises(ValueError, match=r"one (head|position) that it goes to|has no heads"):
            Edit(**wrong)  # type: ignore[arg-type]
    edits = [Edit(site="head", layer=0)]
    with pytest.raises(PromptError, match="they have 4 and 3 tokens"):
        list(sweep_edits(model, [1, 2, 3, 4], edits, source=[1, 2, 3]))
    assert list(sweep_edits(model, [1, 2, 3, 4], [], source=[1, 2, 3, 4])) == []


def test_a_pass_frees_its_activations_without_the_collector(model: HookedModel) -> None:
    """Or the memory of one prompt would still be there while the next one runs."""
    model.run_with_cache(CLEAN)
    gc.collect()
    gc.disable()
    try:
        before = mx.get_active_memory()
        for _ in range(3):
            model.run_with_cache(CLEAN)
        assert mx.get_active_memory() == before
    finally:
        gc.enable()
