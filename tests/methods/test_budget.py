"""What is said to fit in a budget of memory fits, whatever a method holds at once."""

import gc
from collections.abc import Callable

import mlx.core as mx
import pytest

from mlux.engine import HookedModel, memory
from mlux.errors import ParameterError
from mlux.methods import budget as budgets
from mlux.methods.budget import batches_in_budget
from mlux.methods.mediators import neuron_effects
from mlux.methods.prompt_rows import prompts_in_budget, prompts_pass
from mlux.methods.sweeps import every_edit, sweep_edits
from mlux.methods.two_hop import back_patches

SOURCE, TARGET = "the capital of france is", "the capital of peru is"


@pytest.fixture
def model() -> HookedModel:
    return HookedModel.from_pretrained("demo")


def peak_of(run: Callable[[], object]) -> int:
    gc.collect()
    memory.reset_peak()
    before = mx.get_active_memory()
    run()
    return memory.peak() - before


def least(model: HookedModel) -> int:
    """The peak of one row of the only computation that was measured on a model."""
    ((peak, *_),) = budgets._measured[model].values()
    return peak


def test_lanes_take_what_rows_leave(model: HookedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "most", lambda: 4)

    def run(rows: int) -> None:
        mx.eval(mx.zeros((rows, 1 << 18)))  # 1 MiB a row

    def planned(mib: float, groups: list[int]) -> tuple[int, int]:
        size = int(mib * budgets.MARGIN * 2**20) + 4096
        return batches_in_budget(model, run, key="", budget=size, groups=groups, seq=1)

    assert planned(100, [3, 3]) == (3, 2)  # two batches need no more than two lanes
    assert planned(100, [3] * 9) == (3, 4)
    assert planned(7, [3] * 9) == (3, 2)
    assert planned(3, [3] * 9) == (3, 1)
    assert planned(2, [3] * 9) == (2, 1)
    assert planned(1, [3] * 9) == (1, 1)


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_sweeps_in_lanes_stay_under_their_budget(
    model: HookedModel, monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    monkeypatch.setattr(budgets, "most", lambda: lanes)
    ids, others = model.tokenize(SOURCE), model.tokenize("the capital of the country")
    edits = every_edit(model, "attn_out", len(ids), by_position=True)
    reference = {
        row: part.logits[i]
        for part in sweep_edits(model, ids, edits, source=others)
        for i, row in enumerate(part.rows)
    }
    mx.eval(reference.values())
    for factor in (3, 10, 30):

        def run(factor: int = factor) -> None:
            for part in sweep_edits(model, ids, edits, source=others, memory=factor * least(model)):
                for i, row in enumerate(part.rows):
                    assert mx.allclose(part.logits[i], reference[row], atol=1e-3)

        assert peak_of(run) <= factor * least(model)


def test_neurons_keep_to_a_budget_and_give_the_same_effects(model: HookedModel) -> None:
    source, target = model.tokenize(SOURCE), model.tokenize(TARGET)
    (paris,), (lima,) = (model.tokenize(word, add_bos=False) for word in ("paris", "lima"))
    groups = {layer: [range(48 * i, 48 * (i + 1)) for i in range(8)] for layer in range(6)}

    def effects(**options: int) -> list[float]:
        found = neuron_effects(
            model, source, target, groups, answer=paris, wrong_answer=lima, **options
        )
        return [value for one in found for value in (one.indirect, one.direct)]

    with pytest.raises(ParameterError, match=r"one prompt of 6 tokens needs"):
        effects(memory=1)
    reference = effects()
    for factor in (2, 4):
        size = factor * least(model)
        assert effects(memory=size) == pytest.approx(reference, abs=1e-3)
        assert peak_of(lambda size=size: effects(memory=size)) <= size


def test_as_many_prompts_as_fit(model: HookedModel) -> None:
    seq = len(model.tokenize(SOURCE))

    def fitting(size: int) -> int:
        return prompts_in_budget(model, 40, seq=seq, site="resid_post", memory=size)

    with pytest.raises(ParameterError, match=r"one prompt of 6 tokens needs"):
        fitting(1)
    assert fitting(1 << 30) == 40
    for factor in (2, 5, 12):
        size = factor * least(model)
        rows = fitting(size)
        assert factor // 2 <= rows < 40

        def run(rows: int = rows, size: int = size) -> None:
            tokens = model.to_batch([SOURCE] * rows).tokens
            base, other = (
                prompts_pass(model, tokens, site="resid_post", memory=size) for _ in range(2)
            )
            patches = back_patches(
                model,
                base,
                source_layer=3,
                targets=[0, 1],
                positions=[5] * rows,
                source=other.cache,
            )
            assert len(list(patches)) == 2

        assert peak_of(run) <= size
