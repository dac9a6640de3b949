"""What a plan counts is what a run does: blocks and logits, counted while it runs, without a clock.

How long each takes is timed by a plan, and `benchmarks/estimates.py` compares that with the truth.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.nn as nn
import pytest
from mlx_lm.models import llama

from mlux import registry, run_experiment
from mlux.methods.speed import Speed
from mlux.plan import load_model, prepare
from mlux.runner import plan_experiment

FEW: dict[str, dict[str, Any]] = {
    "ablation": {"prompts": "induction:4"},
    "activation_patching": {"prompts": "ioi:2"},
    "attention_patterns": {"prompts": "induction:4"},
    "attribution_patching": {"prompts": "ioi:2"},
    "back_patching": {"prompts": "two_hop:6"},
    "causal_mediation": {"prompts": "facts:2"},
    "causal_tracing": {"prompts": "facts:2"},
    "cross_model": {"prompts": "facts:16"},
    "direct_logit_attribution": {"prompts": "ioi:4"},
    "entity_binding": {"prompts": "two_hop_in_context:6"},
    "function_vectors": {"params": {"n_prompts": 4, "n_shots": 4, "n_random": 1}},
    "induction_heads": {"params": {"n_sequences": 4}},
    "logit_lens": {"prompts": "facts:16"},
    "path_patching": {"prompts": "induction:4"},
    "probing": {"prompts": "reviews:16", "params": {"draws": 1}},
    "refusal_direction": {"prompts": "requests:24"},
    "steering": {"prompts": "reviews:8", "params": {"samples": 1}},
    "tuned_lens": {"prompts": "few_shot:8", "params": {"steps": 3}},
    "two_hop": {"prompts": "two_hop:6"},
}

# Built, but never computed, so that counting calls says too much: what follows a captured place,
# what is frozen, what a head alone is read from.
UNCOMPUTED_BLOCKS = {
    "cross_model", "induction_heads", "logit_lens", "path_patching", "tuned_lens", "two_hop"
}  # fmt: skip
UNCOMPUTED_LOGITS = {"attention_patterns", "induction_heads", "probing"}


class Counter:
    """Tokens that went through a block, and positions whose logits were made."""

    def __init__(self) -> None:
        self.tokens = self.positions = 0


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    counted = Counter()
    block, head = llama.TransformerBlock.__call__, nn.Embedding.as_linear

    def through_block(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        counted.tokens += x.shape[0] * x.shape[1]
        return block(self, x, *args, **kwargs)

    def through_head(self: Any, x: Any) -> Any:
        counted.positions += x.size // x.shape[-1]
        return head(self, x)

    load_model("demo", None).anatomy  # noqa: B018 # learned now, or it would be counted
    monkeypatch.setattr(llama.TransformerBlock, "__call__", through_block)
    monkeypatch.setattr(nn.Embedding, "as_linear", through_head)
    return counted


@pytest.mark.parametrize("name", registry.names())
def test_a_plan_counts_the_blocks_and_the_logits_that_a_run_computes(
    name: str, counter: Counter, tmp_path: Path
) -> None:
    job: dict[str, Any] = {"model": "demo", "keep_unsolved": True, **FEW[name]}
    prepared = prepare(name, **job)
    works = list(prepared.works())
    run_experiment(name, **job, db=tmp_path / "mlux.db")
    if name not in UNCOMPUTED_BLOCKS:
        passes = sum(one.cost.forward_passes * one.n_tokens for one in works)
        planned = prepared.model.config["n_layers"] * passes
        planned += sum(one.cost.generated for one in works)
        assert 0.5 < planned / counter.tokens < 2
    if name not in UNCOMPUTED_LOGITS:
        planned = sum(one.cost.logits + one.cost.generated for one in works)
        assert 0.5 < planned / counter.positions < 2


@pytest.mark.parametrize(
    ("name", "params", "what"),
    [
        ("tuned_lens", {"steps": 100}, "position"),
        ("logit_lens", {"positions": "all"}, "position"),
        ("steering", {"max_tokens": 60}, "call"),
        ("activation_patching", {"sites": ("head",)}, "token"),
    ],
)
def test_the_seconds_of_a_plan_are_those_of_what_takes_longest(
    name: str, params: dict[str, Any], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(**speed: float) -> float:
        none = {"call": 0.0, "token": 0.0, "position": 0.0}
        monkeypatch.setattr("mlux.methods.speed.measure_speed", lambda *args: Speed(**none | speed))
        job: dict[str, Any] = {"model": "demo", **FEW[name], "params": params}
        found = plan_experiment(name, **job, timed=True).seconds
        assert found is not None
        return found

    assert seconds(**{what: 1.0}) > 100 * seconds()
    assert seconds(**{what: 2.0}) > 1.9 * seconds(**{what: 1.0})
