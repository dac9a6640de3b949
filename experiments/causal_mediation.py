"""Causal mediation: how much of a change of the prompt goes through one place?"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.arrays import numbers
from mlux.engine.trials import PromptBatch, Trial
from mlux.errors import PromptError
from mlux.methods.baseline import differ
from mlux.methods.edits import Edit, every_edit
from mlux.methods.mediators import Mediated, mediated_effects, neuron_effects
from mlux.methods.neurons import layers_with_neurons, neurons
from mlux.methods.patching import elsewhere
from mlux.methods.scores import logit_diff, scored_logits
from mlux.registry import Cost, experiment
from mlux.results import Metric, Result, at

Mediator = Literal["head", "attn_out", "mlp_out", "neurons"]
MOST_GROUPS = 10_000  # more is a slip of the finger, and fills the memory
METRICS = (
    Metric(
        name="mediation_total",
        unit="logits",
        better="higher",
        description="Logit difference of the source prompt minus that of the target prompt.",
    ),
    Metric(
        name="mediation_indirect",
        unit="logits",
        description="Change of the target prompt's logit difference with the mediator as in the "
        "source prompt.",
    ),
    Metric(
        name="mediation_direct",
        unit="logits",
        description="Change by the source prompt while the mediator stays as in the target prompt.",
    ),
    Metric(
        name="mediated_share",
        unit="fraction",
        description="The indirect effect as a part of the total effect.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class CausalMediationConfig:
    """Options of causal mediation."""

    mediators: tuple[Mediator, ...] = field(
        default=("head", "attn_out", "mlp_out", "neurons"),
        metadata={"help": "what mediates, at all positions: " + ", ".join(get_args(Mediator))},
    )
    neuron_groups: int = field(
        default=4, metadata={"help": "groups of neighbouring neurons, for the mediator neurons"}
    )
    controls: bool = field(
        default=True,
        metadata={"help": "also exchange nothing, and take a random other head or random neurons"},
    )

    def __post_init__(self) -> None:
        if not 1 <= self.neuron_groups <= MOST_GROUPS:
            raise ValueError(f"neuron_groups is {self.neuron_groups}; expected 1 to {MOST_GROUPS}")


def _conditions(
    config: CausalMediationConfig, model: Mapping[str, Any]
) -> Sequence[Mapping[str, str]]:
    found: list[dict[str, str]] = []
    for mediator in config.mediators:
        if mediator == "neurons":
            count = config.neuron_groups
            groups = [{"mediator": mediator, "group": f"{i + 1}/{count}"} for i in range(count)]
            controls = ["self", *(["random"] if count > 1 else [])] if config.controls else []
            found += groups
            found += [{**group, "control": name} for name in controls for group in groups]
            continue
        found.append({"mediator": mediator})
        if config.controls:
            found.append({"mediator": mediator, "control": "self"})
        if config.controls and mediator == "head":
            found.append({"mediator": mediator, "control": "random"})
    return found


def _cost(
    config: CausalMediationConfig,
    model: Mapping[str, Any],
    condition: Mapping[str, str],
    n_tokens: int,
) -> Cost:
    edits = model["n_heads"] if condition["mediator"] == "head" else 1
    layers = model["n_layers"]
    one_way = Cost.of_sweep(layers, edits, n_tokens, passes=1)
    return one_way * 2 + Cost(forward_passes=0, values=3 * layers * edits + 1)


@experiment(
    metrics=METRICS,
    prompts="facts:6",
    roles=("corrupted", "answer", "wrong_answer"),
    aligned=True,
    gate="pair",
    conditions=_conditions,
    cost=_cost,
    sites=lambda config: (
        "resid_pre", *("mlp_out" if name == "neurons" else name for name in config.mediators),
    ),
    paper="Vig et al. (2020), Causal Mediation Analysis for Interpreting Neural NLP",
)  # fmt: skip
def causal_mediation(
    model: HookedModel, config: CausalMediationConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Total, direct and indirect effect of every head, attention, MLP and group of neurons.

    The source is the prompt, the target its corrupted twin. The indirect effect puts the mediator's
    activation of the source into the target; the direct effect runs the source with the mediator's
    activation of the target. Controls: nothing exchanged, another head, random neurons.
    """
    control = batch.condition.get("control")
    for trial in batch:
        encoded = trial.encoded
        source, target = encoded.ids, encoded.corrupted
        assert target is not None
        assert encoded.answer is not None
        assert encoded.wrong_answer is not None
        if len(source) != len(target):
            raise PromptError(
                f"Mediation needs two prompts of equal length; they have {len(source)} and "
                f"{len(target)} tokens."
            )
        ends = [_difference(model, trial, ids) for ids in (source, target)]
        total = ends[0] - ends[1]
        if control == "self":
            source = target
        found = _effects(model, config, batch, trial, source, target)
        yield trial, at("mediation_total", total)
        for one in found:
            layer, head = _place(one)
            yield trial, at("mediation_indirect", one.indirect, layer=layer, head=head)
            yield trial, at("mediation_direct", one.direct, layer=layer, head=head)
            if differ(*ends):
                yield trial, at("mediated_share", one.indirect / total, layer=layer, head=head)


def _effects(
    model: HookedModel,
    config: CausalMediationConfig,
    batch: PromptBatch,
    trial: Trial,
    source: Sequence[int],
    target: Sequence[int],
) -> list[Mediated]:
    answers: Any = {"answer": trial.encoded.answer, "wrong_answer": trial.encoded.wrong_answer}
    mediator: Any = batch.condition["mediator"]
    if mediator == "neurons":
        groups = _groups(model, batch, trial)
        return neuron_effects(model, source, target, groups, memory=batch.memory, **answers)
    edits = every_edit(model, mediator, len(source), by_position=False)
    if batch.condition.get("control") == "random":
        generator = random.Random(f"{batch.seed} {trial.number}")
        edits = elsewhere(model, edits, len(source), generator)
    return mediated_effects(model, source, target, edits, memory=batch.memory, **answers)


def _groups(model: HookedModel, batch: PromptBatch, trial: Trial) -> dict[int, list[Sequence[int]]]:
    """The condition's part of each layer's neurons, or as many random ones."""
    name = batch.condition["group"]
    group, count = map(int, name.split("/"))
    held = neurons(model, trial.encoded.ids[:1], layers_with_neurons(model))
    groups: dict[int, list[Sequence[int]]] = {}
    for layer, values in held.items():
        width = values.shape[-1]
        chosen: Sequence[int] = range(width * (group - 1) // count, width * group // count)
        if batch.condition.get("control") == "random":
            generator = random.Random(f"{batch.seed} {trial.number} {name} {layer}")
            chosen = generator.sample(range(width), len(chosen))
        groups[layer] = [chosen]
    return groups


def _difference(model: HookedModel, trial: Trial, ids: Sequence[int]) -> float:
    logits = scored_logits(model, mx.array([list(ids)]), mx.array([len(ids) - 1]))
    assert trial.encoded.answer is not None
    assert trial.encoded.wrong_answer is not None
    value: float = numbers(logit_diff(logits, trial.encoded.answer, trial.encoded.wrong_answer))[0]
    return value


def _place(one: Mediated) -> tuple[int, int | None]:
    if isinstance(one.place, Edit):
        return one.place.layer, one.place.head
    layer, _ = one.place
    assert isinstance(layer, int)
    return layer, None
