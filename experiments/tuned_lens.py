"""Tuned lens: what does each layer know, read in its own basis?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mlux.engine import HookedModel
from mlux.engine.arrays import integers, numbers
from mlux.engine.trials import EncodedPrompt, PromptBatch, Trial
from mlux.errors import ParameterError
from mlux.methods.lens import logit_lens
from mlux.methods.tuned_lens import Training, TunedLens, train_tuned_lens, translate_rows
from mlux.metrics import ANSWER_PROBABILITY, ANSWER_RANK, KL_TO_FINAL
from mlux.prompts import Prompt
from mlux.registry import Cost, experiment
from mlux.results import Artifact, Fitted, Result, Values
from mlux.steps import UNKEPT, Steps

METRICS = (KL_TO_FINAL, ANSWER_RANK, ANSWER_PROBABILITY)


@dataclass(frozen=True, kw_only=True)
class TunedLensConfig:
    """Options of the tuned lens."""

    folds: int = field(
        default=2, metadata={"help": "parts of the prompts; each is read by a lens of the others"}
    )
    steps: int = field(default=100, metadata={"help": "training steps for each layer"})
    learning_rate: float = field(default=1e-3, metadata={"help": "of the first step, of Adam"})
    positions: Literal["last", "all"] = field(
        default="last", metadata={"help": "read at the last position, or at every one"}
    )

    def __post_init__(self) -> None:
        if self.folds < 2 or self.steps < 1 or not 0 < self.learning_rate <= 1:
            raise ValueError(
                f"folds is {self.folds}, steps {self.steps} and learning_rate "
                f"{self.learning_rate}; expected at least 2, at least 1, and above 0 up to 1"
            )


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Lenses, and which of them has not seen a prompt."""

    lenses: tuple[TunedLens, ...]
    fold: Mapping[Prompt, int]


def _check(
    model: HookedModel, config: TunedLensConfig, prompts: Sequence[EncodedPrompt], seed: int
) -> None:
    if len(prompts) < config.folds:
        raise ParameterError(
            f"tuned_lens: folds is {config.folds}, but there are {len(prompts)} prompts to divide."
        )


def _fit(
    model: HookedModel,
    config: TunedLensConfig,
    prompts: Sequence[EncodedPrompt],
    seed: int,
    steps: Steps = UNKEPT,
) -> Fitted:
    places = np.random.default_rng(seed).permutation(len(prompts)) % config.folds
    training = Training(steps=config.steps, learning_rate=config.learning_rate)
    lenses = [
        train_tuned_lens(
            model,
            [encoded.ids for encoded, place in zip(prompts, places, strict=True) if place != fold],
            seed=seed,
            training=training,
            steps=steps,
            name=f"translator.{fold}",
        )
        for fold in range(config.folds)
    ]
    artifacts = [
        Artifact(
            name=f"tuned_lens.{fold}",
            kind="lens",
            arrays={"weight": lens.weight, "bias": lens.bias, "loss": lens.loss},
            metadata={"held_out_fold": str(fold), "map": "h + weight[layer] @ h + bias[layer]"},
        )
        for fold, lens in enumerate(lenses)
    ]
    fold_of = {e.prompt: int(place) for e, place in zip(prompts, places, strict=True)}
    return Fitted(state=Trained(lenses=tuple(lenses), fold=fold_of), artifacts=artifacts)


def _fit_cost(
    config: TunedLensConfig, model: Mapping[str, Any], n_prompts: int, n_tokens: float
) -> Cost:
    # Every position of a step is read with gradients, after every block but the last.
    shown = min(Training.positions, (config.folds - 1) / config.folds * n_prompts * n_tokens)
    trained = 2 * (model["n_layers"] - 1) * config.steps * shown
    read = (config.folds - 1) * n_prompts
    return Cost(forward_passes=read, unembedded=config.folds * trained + read * n_tokens)


def _cost(
    config: TunedLensConfig, model: Mapping[str, Any], condition: Mapping[str, str], n_tokens: int
) -> Cost:
    positions = n_tokens if config.positions == "all" else 1
    looked = model["n_layers"] * positions
    return Cost(
        forward_passes=1,
        unembedded=positions + looked,
        looked_at=looked,
        values=looked * len(METRICS),
    )


@experiment(
    metrics=METRICS,
    prompts="few_shot",
    roles=("answer",),
    conditions=lambda config, model: [{"lens": "tuned"}, {"lens": "logit"}],
    cost=_cost,
    check=_check,
    fit=_fit,
    fit_cost=_fit_cost,
    sites=("resid_post", "lens"),
    paper="Belrose et al. (2023), Eliciting Latent Predictions from Transformers with the "
    "Tuned Lens",
)
def tuned_lens(
    model: HookedModel, config: TunedLensConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """One affine map a layer, trained to predict the final distribution, beside the logit lens.

    The maps are trained on every position of the run's prompts, by parts: each prompt is read by
    maps that were trained without it. They are kept with the run as `tuned_lens.0`, `.1`, ….
    """
    trained: Trained = batch.fitted
    positions = batch.positions(config.positions)
    places = integers(positions)
    which = [trained.fold[trial.encoded.prompt] for trial in batch]
    tuned = batch.condition["lens"] == "tuned"
    readouts = logit_lens(
        model,
        batch.clean,
        answers=[trial.encoded.answer or 0 for trial in batch],
        positions=positions,
        top_k=1,
        translate=translate_rows(trained.lenses, which) if tuned else None,
    )
    for readout in readouts:
        by_metric = {
            "kl_to_final": numbers(readout.kl_to_final),
            "answer_rank": numbers(readout.answer_rank),
            "answer_probability": numbers(readout.answer_probability),
        }
        for row, trial in enumerate(batch):
            for name, values in by_metric.items():
                yield (
                    trial,
                    Values(
                        metric=name,
                        values=[values[row]],
                        axes=("layer", "position"),
                        index={"layer": [readout.layer], "position": places[row]},
                    ),
                )
