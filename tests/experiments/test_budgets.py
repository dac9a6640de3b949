"""`--memory` bounds every sweep, also of what an experiment learns before its first trial."""

import gc
from typing import Any

import mlx.core as mx
import pytest

from mlux import plan
from mlux.engine import HookedModel, memory
from mlux.errors import ParameterError
from mlux.methods import budget as budgets


@pytest.mark.parametrize(
    ("name", "params"),
    [("path_patching", {}), ("activation_patching", {"sites": "head", "top_heads": "2"})],
)
def test_what_is_learned_first_keeps_to_the_budget(name: str, params: dict[str, Any]) -> None:
    model = HookedModel.from_pretrained("demo")

    def prepared(size: int) -> plan.Prepared:
        return plan.prepare(name, model=model, params=params, memory=size)

    whole = prepared(1 << 30).fit()
    least = max(peaks[0] for peaks in budgets._measured[model].values())
    for factor in (2, 4):
        ready = prepared(factor * least)
        gc.collect()
        memory.reset_peak()
        before = mx.get_active_memory()
        assert ready.fit() == whole
        assert memory.peak() - before <= factor * least


@pytest.mark.parametrize("name", ["path_patching", "activation_patching", "function_vectors"])
def test_a_budget_that_is_too_small_stops_what_is_learned_first(name: str) -> None:
    prepared = plan.prepare(name, model=HookedModel.from_pretrained("demo"), memory=1 << 10)
    with pytest.raises(ParameterError, match=r"budget is 1\.0 KiB, but one prompt of \d+ tokens"):
        prepared.fit()
