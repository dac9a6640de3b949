"""A made-up run of every experiment on a model of 30 layers and 9 heads, without the model."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from synthetic import make_model, make_spec

from mlux import gate, registry
from mlux.results import Metric, Values
from mlux.store import FinishedTrial, RunSpec

N_LAYERS, N_HEADS, N_POSITIONS = 30, 9, 7
SIZES = {"layer": N_LAYERS, "head": N_HEADS, "position": N_POSITIONS}
NONE: tuple[str, ...] = ()
LAYER, HEAD, TOKEN = ("layer",), ("layer", "head"), ("layer", "position")

Condition = Mapping[str, str]
Axes = tuple[str, ...] | Callable[[Condition], tuple[str, ...] | None]
"""Of a metric, or under each condition; None is not measured."""


def _by(part: str, **axes: tuple[str, ...]) -> Callable[[Condition], tuple[str, ...]]:
    return lambda condition: axes.get(condition.get(part, ""), NONE)


_SITES = _by("site", head=HEAD, attn_out=TOKEN, mlp_out=TOKEN, resid_pre=TOKEN)
_MEDIATORS = _by("mediator", head=HEAD, attn_out=LAYER, mlp_out=LAYER, neurons=LAYER)
AXES: dict[str, dict[str, Axes]] = {
    "ablation": dict.fromkeys(
        ("loss", "logit_diff", "kl", "accuracy"),
        _by("site", head=HEAD, attn_out=LAYER, mlp_out=LAYER),
    ),
    "activation_patching": dict.fromkeys(
        ("patching_effect", "logit_diff", "answer_probability", "kl_to_clean"), _SITES
    ),
    "attention_patterns": dict.fromkeys(
        ("attention_entropy", "attention_distance", "bos_attention", "previous_token_attention"),
        HEAD,
    ),
    "attribution_patching": {"attribution_effect": _SITES, "patching_effect": _SITES},
    "back_patching": dict.fromkeys(
        ("accuracy", "answer_rank", "answer_probability", "probability_gain"), LAYER
    ),
    "causal_mediation": dict.fromkeys(
        ("mediation_indirect", "mediation_direct", "mediated_share"), _MEDIATORS
    ),
    "causal_tracing": {
        "indirect_effect": TOKEN,
        "indirect_effect_subject": LAYER,
        "indirect_effect_last": LAYER,
    },
    "cross_model": dict.fromkeys(("answer_probability", "answer_rank", "kl_to_final"), LAYER),
    "direct_logit_attribution": {
        "head_contribution": HEAD,
        "mlp_contribution": LAYER,
        "attention_rest_contribution": LAYER,
    },
    "entity_binding": dict.fromkeys(("logit_diff", "exchange_effect", "follows_exchange"), LAYER),
    "function_vectors": {
        **dict.fromkeys(("accuracy", "answer_probability", "probability_gain"),
                        lambda condition: LAYER if "vector" in condition else NONE),
        "indirect_effect": lambda condition: HEAD if "patch" in condition else None,
    },
    "induction_heads": dict.fromkeys(
        ("prefix_matching_score", "previous_token_score", "duplicate_token_score", "copying_score"),
        HEAD,
    ),
    "logit_lens": dict.fromkeys(
        ("answer_rank", "answer_probability", "entropy", "kl_to_final"), LAYER
    ),
    "path_patching": dict.fromkeys(("path_effect", "logit_diff"), HEAD),
    "probing": dict.fromkeys(("probe_correct", "probe_probability", "selectivity"), LAYER),
    "refusal_direction": {
        "direction_cosine": LAYER,
        "bypass_score": TOKEN,
        "induce_score": TOKEN,
        "ablation_kl": TOKEN,
    },
    "steering": {},
    "tuned_lens": dict.fromkeys(("kl_to_final", "answer_rank", "answer_probability"), LAYER),
    "two_hop": dict.fromkeys(("entity_rank", "entity_probability"), LAYER),
}  # fmt: skip
"""Experiment → metric → the axes of its values; the metrics that are not here have none."""

BASELINES = {
    *("clean_logit_diff", "corrupted_logit_diff", "unpatched_accuracy", "mediation_total"),
    *("clean_probability", "uncapped_logit_diff", "direction_cosine", "bypass_score"),
    *("induce_score", "ablation_kl", "split", *(metric.name for metric in gate.METRICS)),
}
"""The metrics that no condition changes."""


def made_up(name: str, *, n_prompts: int) -> tuple[RunSpec, Callable[[int], FinishedTrial]]:
    """What a run of an experiment is filed with, and what each of its trials finds."""
    found = registry.get(name)
    model = make_model("deep", n_layers=N_LAYERS, n_heads=N_HEADS)
    facts = {"n_layers": N_LAYERS, "n_heads": N_HEADS, "d_model": 72}
    conditions = list(found.conditions(found.config(), facts))
    spec = make_spec(
        experiment=name, metrics=found.metrics, conditions=conditions, model=model,
        n_prompts=n_prompts,
    )  # fmt: skip

    def finished(trial: int) -> FinishedTrial:
        number, prompt = divmod(trial, n_prompts)
        results = [
            values
            for place, metric in enumerate(found.metrics)
            for values in _of(name, metric, place, conditions[number], number, prompt)
        ]
        return FinishedTrial(trial=trial, results=results, tokens={"clean": [*range(7)]})

    return spec, finished


def _of(
    name: str, metric: Metric, place: int, condition: Condition, number: int, prompt: int
) -> list[Values]:
    axes = AXES[name].get(metric.name, NONE)
    axes = axes(condition) if callable(axes) else axes
    if axes is None:
        return []
    index: dict[Any, Any] = {}
    if name == "cross_model" and axes:
        index = {"layer": range(0, 101, 10)}
    if name == "back_patching" and axes:
        source = int(condition["source_layer"])
        index = {"layer": [source] if condition.get("control") == "self" else range(source)}
    if metric.name in BASELINES and axes and number:
        return []  # it is found once, under the first condition
    number = 0 if metric.name in BASELINES else number

    def filled(rest: tuple[str, ...], at: tuple[int, ...]) -> Any:
        if rest:
            size = len(index.get(rest[0], range(SIZES[rest[0]])))
            return [filled(rest[1:], (*at, place)) for place in range(size)]
        phase = 0.3 * sum((step + 1) * place for step, place in enumerate(at))
        wave = math.sin(phase + place + 0.7 * number) + 0.4 * math.sin(5.0 * prompt + phase)
        if metric.unit == "rank":
            return float(round(10 ** (2.5 + 1.5 * wave)))
        return wave if metric.better == "neither" else 0.5 + 0.3 * wave

    return [Values(metric=metric.name, values=filled(axes, ()), axes=axes, index=index)]  # type: ignore[arg-type] # names of axes
