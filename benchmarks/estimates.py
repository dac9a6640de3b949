"""What a dry run says a run will take, beside what it takes.

    python benchmarks/estimates.py [MODEL] [EXPERIMENT…]

MODEL is `demo` or the folder of a real model; few prompts, and all experiments by default. The
prompts are those written for the built-in model, solved or not: what they cost is the same. Each
line has the seconds of the estimate, of the run and of the dry run itself. Both are measured in the
same process one after the other, but a busy machine still shows: the median ratio says more than
any one. Exits with 1 where an estimate is off by more than a factor of two and by more than a
second.
"""

import sys
import tempfile
import time
from statistics import median
from typing import Any

from mlux import prompts, registry
from mlux.engine import HookedModel
from mlux.engine.trials import encode
from mlux.plan import load_model
from mlux.prompts import PromptSet
from mlux.runner import plan_experiment, run_experiment

FACTOR = 2.0
SLACK = 1.0
"""Seconds below which nobody waits."""

FEW: dict[str, dict[str, Any]] = {
    "ablation": {"prompts": "induction:2"},
    "activation_patching": {"prompts": "ioi:2"},
    "attention_patterns": {"prompts": "induction:8"},
    "attribution_patching": {"prompts": "ioi:2"},
    "back_patching": {"prompts": "two_hop:4"},
    "causal_mediation": {"prompts": "facts:2"},
    "causal_tracing": {"prompts": "facts:2", "params": {"samples": 3}},
    "cross_model": {"prompts": "facts:16"},
    "direct_logit_attribution": {"prompts": "ioi:8"},
    "entity_binding": {"prompts": "two_hop_in_context:4"},
    "function_vectors": {"params": {"n_prompts": 4, "n_shots": 2, "n_random": 1}},
    "induction_heads": {},
    "logit_lens": {"prompts": "facts:16"},
    "path_patching": {"prompts": "induction:2"},
    "probing": {"prompts": "reviews:32"},
    "refusal_direction": {
        "prompts": "requests:24",
        "params": {"refusals": ("I", "The", "You", "To", "sorry"), "most_kl": 1000.0},
    },
    "steering": {"prompts": "reviews:8", "params": {"samples": 1}},
    "tuned_lens": {"prompts": "few_shot:8", "params": {"steps": 5}},
    "two_hop": {"prompts": "two_hop:16"},
}


def fitting(experiment: str, model: HookedModel, wanted: str) -> PromptSet:
    """So many prompts of a set; as long as their corrupted form where they are to be."""
    name, _, count = wanted.partition(":")
    found = [encode(model, prompt) for prompt in prompts.load(name).prompts]
    if registry.get(experiment).aligned:
        found = [one for one in found if len(one.corrupted or ()) == len(one.ids)]
    return PromptSet(name=wanted, prompts=tuple(one.prompt for one in found[: int(count)]))


def main() -> None:
    """Measures and prints."""
    model, *names = sys.argv[1:] or ["demo"]
    off, ratios = [], []
    print(f"{'experiment':<26}{'estimate':>9}{'truth':>9}{'ratio':>7}{'dry run':>9}", flush=True)
    for name in names or registry.names():
        job: dict[str, Any] = {"model": model, "bad_prompts": "keep", "keep_unsolved": True}
        job |= FEW.get(name, {})
        if "prompts" in job:
            job["prompts"] = fitting(name, load_model(model, None), job["prompts"])
        began = time.perf_counter()
        estimate = plan_experiment(name, **job, timed=True).seconds or 0.0
        took = time.perf_counter() - began
        with tempfile.TemporaryDirectory() as folder:
            truth = run_experiment(name, **job, db=f"{folder}/mlux.db").seconds
        ratios.append(estimate / truth)
        if max(ratios[-1], 1 / ratios[-1]) > FACTOR and abs(estimate - truth) > SLACK:
            off.append(name)
        print(f"{name:<26}{estimate:8.1f}s{truth:8.1f}s{ratios[-1]:7.2f}{took:8.1f}s", flush=True)
    print(f"median ratio {median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")
    if off:
        sys.exit(f"off by more than {FACTOR:g} times: {', '.join(off)}")


if __name__ == "__main__":
    main()
