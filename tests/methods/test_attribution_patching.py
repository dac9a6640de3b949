"""First-order estimates are derivatives: they agree with patches of a thousandth of the way."""

import copy
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlux.engine import HookedModel
from mlux.errors import PromptError
from mlux.methods.attribution_patching import (
    NoGradientError,
    attribution_patching,
    pearson,
)
from mlux.methods.edits import SiteName

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from tiny import TOKENS, tiny  # the tiny models of the engine's tests

IDS, OTHERS = TOKENS.tolist()
ANSWERS: Any = {"answer": 5, "wrong_answer": 9}


def difference(model: HookedModel, ids: Any, hooks: Any = ()) -> float:
    logits = model.run_with_hooks([ids], hooks=hooks)[0, -1]
    return float((logits[5] - logits[9]).item())


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mixtral"])
@pytest.mark.parametrize("site", ["head", "k", "pattern", "resid_pre", "mlp_out"])
def test_estimates_are_the_slope_of_the_exact_effect(family: str, site: SiteName) -> None:
    model = tiny(family)
    found = attribution_patching(model, IDS, OTHERS, wanted=[site], **ANSWERS)
    low, high = difference(model, IDS), difference(model, OTHERS)
    part = 1e-2
    assert max(mx.max(mx.abs(one.effects)).item() for one in found) > 0.01  # type: ignore[type-var] # of a scalar
    for one in found[1:]:
        effects = one.effects if one.effects.ndim == 2 else one.effects[None]
        head, position = divmod(int(mx.argmax(mx.abs(effects)).item()), len(IDS))
        at = (0, position) if one.effects.ndim == 1 else (0, head, position)
        path = {
            "head": f"model.layers.{one.layer}.self_attn.z",
            "k": f"model.layers.{one.layer}.self_attn.k",
            "pattern": f"model.layers.{one.layer}.self_attn.pattern",
            "resid_pre": f"model.layers.{one.layer}.input",
            "mlp_out": f"model.layers.{one.layer}.mlp",
        }[site]
        _, other = model.run_with_cache([OTHERS], hooks=[path])

        def step(inputs: Any, output: mx.array, wrapper: Any, sign: float, at: Any, to: Any) -> Any:
            output = output[...]
            output[at] = output[at] + sign * part * (to[at] - output[at])
            return output

        slopes = [
            difference(
                model,
                IDS,
                [(path, lambda i, o, w, s=sign, t=other[path], at=at: step(i, o, w, s, at, t))],
            )
            for sign in (1.0, -1.0)
        ]
        slope = (slopes[0] - slopes[1]) / (2 * part) / (high - low)
        assert effects[head, position].item() == pytest.approx(slope, rel=0.05, abs=2e-3)


def test_more_steps_come_closer_where_the_model_bends() -> None:
    """Over all positions of the embeddings' stream, integrated gradients add up to everything."""
    model = tiny("llama")
    sums = [
        attribution_patching(model, IDS, OTHERS, wanted=["resid_pre"], steps=steps, **ANSWERS)[0]
        .effects.sum()
        .item()
        for steps in (1, 64)
    ]
    assert abs(sums[1] - 1) < 0.05
    assert abs(sums[1] - 1) < abs(sums[0] - 1)


class Solved(nn.Module):
    """An MLP with something in it that MLX cannot differentiate."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __call__(self, x: mx.array) -> mx.array:
        square = x[..., :2, None, :2].sum(axis=1) * 0 + mx.eye(2)
        return self.inner(x) + mx.linalg.qr(square, stream=mx.cpu)[0].sum() * 0


def test_a_kernel_without_a_gradient_says_so() -> None:
    plain = tiny("llama")
    model = copy.deepcopy(plain.model)
    model.layers[1].mlp = Solved(model.layers[1].mlp)
    hooked = HookedModel(model, None, config=dict(plain._raw_config))
    with pytest.raises(NoGradientError, match="A kernel of this model has no gradient"):
        attribution_patching(hooked, IDS, OTHERS, wanted=["head"], **ANSWERS)


def test_what_cannot_be_estimated_is_refused() -> None:
    model = tiny("llama")
    with pytest.raises(PromptError, match="they have 8 and 7 tokens"):
        attribution_patching(model, IDS, OTHERS[1:], wanted=["head"], **ANSWERS)
    with pytest.raises(PromptError, match="same logit difference"):
        attribution_patching(model, IDS, IDS, wanted=["head"], **ANSWERS)
    assert pearson([1.0, 1.0], [0.0, 1.0]) is None
