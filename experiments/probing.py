"""Probing: at which layer can a label be read off the residual stream?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from mlux.engine import HookedModel
from mlux.engine.spans import subject_span
from mlux.engine.trials import EncodedPrompt, PromptBatch, Trial
from mlux.methods.probing import (
    HeldOut,
    collect,
    control_labels,
    cross_validate,
    mean_of,
    require_labels,
    require_types,
    train_probe,
)
from mlux.prompts import Prompt
from mlux.registry import Cost, experiment
from mlux.results import Artifact, Fitted, Metric, Result, Values
from mlux.steps import UNKEPT, Arrays, Steps

METRICS = (
    Metric(
        name="probe_correct",
        unit="accuracy",
        better="higher",
        description="1 where a probe trained without the prompt reads its label, else 0; of the "
        "control, the mean over its draws.",
    ),
    Metric(
        name="probe_probability",
        unit="probability",
        better="higher",
        description="What such a probe gives to the prompt's label.",
    ),
    Metric(
        name="selectivity",
        unit="accuracy difference",
        better="higher",
        description="probe_correct minus that of the control task; its mean is the selectivity.",
    ),
)
REGRESSION, SCALAR = 5e-3, 2e-7
"""Seconds of one regression, and more for each number that it is fitted to, on a usual core."""
TASK, CONTROL = "task", "random_labels"


@dataclass(frozen=True, kw_only=True)
class ProbingConfig:
    """Options of probing."""

    position: Literal["last", "subject_last"] = field(
        default="last", metadata={"help": "probe the prompt's last token, or its subject's"}
    )
    split: Literal["prompts", "types"] = field(
        default="prompts",
        metadata={"help": "judge on new prompts, or on new word types (subjects) as well"},
    )
    folds: int = field(default=5, metadata={"help": "parts of the cross-validation"})
    strength: float = field(
        default=0.01, metadata={"help": "C of the logistic regression, the inverse of its penalty"}
    )

    draws: int = field(
        default=10, metadata={"help": "draws of random labels that the control is the mean of"}
    )

    def __post_init__(self) -> None:
        if self.folds < 2 or self.draws < 1 or not 1e-12 <= self.strength <= 1e12:
            raise ValueError(
                f"folds is {self.folds}, draws {self.draws} and strength {self.strength}; "
                "expected at least 2, at least 1, and 1e-12 to 1e12"
            )


@dataclass(frozen=True, kw_only=True)
class Probed:
    """Held-out results by task and layer, and each prompt's place in them."""

    held_out: Mapping[str, Mapping[int, HeldOut]]
    place: Mapping[Prompt, int]


def _word_type(prompt: Prompt) -> str:
    return prompt.subject or prompt.text


def _check(
    model: HookedModel, config: ProbingConfig, prompts: Sequence[EncodedPrompt], seed: int
) -> None:
    labels = [encoded.prompt.label or "" for encoded in prompts]
    require_labels(labels, config.folds)
    types = [_word_type(encoded.prompt) for encoded in prompts]
    for draw in range(config.draws):
        require_labels(control_labels(types, labels, seed=seed + draw), config.folds)
    if config.split == "types":
        require_types(types, config.folds)
    if config.position != "last":
        for encoded in prompts:
            subject_span(model.tokenizer, encoded)


def _fit(
    model: HookedModel,
    config: ProbingConfig,
    prompts: Sequence[EncodedPrompt],
    seed: int,
    steps: Steps = UNKEPT,
) -> Fitted:
    labels = [encoded.prompt.label or "" for encoded in prompts]
    positions = [
        len(encoded.ids) - 1
        if config.position == "last"
        else subject_span(model.tokenizer, encoded)[1] - 1
        for encoded in prompts
    ]
    activations = collect(model, [encoded.ids for encoded in prompts], positions)
    types = [_word_type(encoded.prompt) for encoded in prompts]
    controls = [control_labels(types, labels, seed=seed + draw) for draw in range(config.draws)]

    def learn(wanted: Sequence[str]) -> Arrays:
        found = [
            cross_validate(
                resid,
                wanted,
                folds=config.folds,
                strength=config.strength,
                seed=seed,
                types=types if config.split == "types" else None,
            )
            for resid in activations.values()
        ]  # one a layer
        return {
            "correct": np.stack([one.correct for one in found]),
            "probability": np.stack([one.probability for one in found]),
        }

    def judged(name: str, wanted: Sequence[str]) -> dict[int, HeldOut]:
        found = steps.once(f"probed.{name}", partial(learn, wanted), partial(_said, name))
        return {
            layer: HeldOut(correct=correct, probability=probability)
            for layer, correct, probability in zip(
                activations, found["correct"], found["probability"], strict=True
            )
        }

    of_task = judged(TASK, labels)
    of_controls = [judged(f"{CONTROL}.{draw}", drawn) for draw, drawn in enumerate(controls)]
    held_out = {
        TASK: of_task,
        CONTROL: {layer: mean_of([draw[layer] for draw in of_controls]) for layer in activations},
    }
    probes = {
        layer: train_probe(found, labels, strength=config.strength)
        for layer, found in activations.items()
    }
    arrays: dict[str, Any] = {}
    for layer, probe in probes.items():
        arrays |= {f"layer.{layer}.weight": probe.weight, f"layer.{layer}.bias": probe.bias}
    metadata = {"labels": "\n".join(probes[0].labels), "position": config.position}
    return Fitted(
        state=Probed(
            held_out=held_out,
            place={encoded.prompt: place for place, encoded in enumerate(prompts)},
        ),
        artifacts=[Artifact(name="probes", kind="probes", arrays=arrays, metadata=metadata)],
    )


def _said(name: str, found: Arrays) -> str:
    accuracies = found["correct"].mean(axis=1)
    return f"probes of {name}: the best accuracy is {accuracies.max():.3g}, after block " + str(
        accuracies.argmax()
    )


def _cost(
    config: ProbingConfig, model: Mapping[str, Any], condition: Mapping[str, str], n_tokens: int
) -> Cost:
    return Cost(forward_passes=0, values=len(METRICS) * model["n_layers"])


def _fit_cost(
    config: ProbingConfig, model: Mapping[str, Any], n_prompts: int, n_tokens: float
) -> Cost:
    regressions = model["n_layers"] * (config.folds * (config.draws + 1) + 1)
    seconds = REGRESSION + SCALAR * n_prompts * model["d_model"]
    return Cost(forward_passes=n_prompts, unembedded=0, seconds=regressions * seconds)


@experiment(
    metrics=METRICS,
    prompts="reviews",
    roles=("label",),
    conditions=lambda config, model: [{}, {"control": CONTROL}],
    cost=_cost,
    check=_check,
    fit=_fit,
    fit_cost=_fit_cost,
    sites=("resid_post",),
    paper="Hewitt & Liang (2019), Designing and Interpreting Probes with Control Tasks",
)
def probing(
    model: HookedModel, config: ProbingConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Linear probes of the prompts' labels at every layer, beside a control task.

    Every number is of a prompt that the probe was not trained on. The control task has a random
    label for each word type (the prompt's subject, or all of its text where it has none), the same
    for all prompts of that type. Probes trained on all prompts are kept with the run as `probes`.
    """
    probed: Probed = batch.fitted
    task = batch.condition.get("control", TASK)
    for trial in batch:
        place = probed.place[trial.encoded.prompt]
        by_metric: dict[str, list[float]] = {"probe_correct": [], "probe_probability": []}
        for layer, held_out in probed.held_out[task].items():
            by_metric["probe_correct"].append(float(held_out.correct[place]))
            by_metric["probe_probability"].append(float(held_out.probability[place]))
            if task == TASK:
                other = probed.held_out[CONTROL][layer]
                by_metric.setdefault("selectivity", []).append(
                    float(held_out.correct[place] - other.correct[place])
                )
        for name, values in by_metric.items():
            yield trial, Values(metric=name, values=values, axes=("layer",))
