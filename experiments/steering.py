"""Steering: does a direction change the register of what a model writes, and at what price?"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

from mlux.engine import HookedModel
from mlux.engine.batching import encode_prompt
from mlux.engine.trials import EncodedPrompt, PromptBatch, Trial
from mlux.errors import ParameterError
from mlux.methods.contrast import Contrast, before_subject, learn_contrast
from mlux.methods.directions import Method
from mlux.methods.steered_text import (
    Columns,
    Judge,
    at_the_end,
    language,
    register,
    write_steered,
)  # fmt: skip
from mlux.methods.steering_fit import (
    Direction,
    Layers,
    calibrate,
    learn_directions,
    random_directions,
)  # fmt: skip
from mlux.methods.steering_strength import Calibration
from mlux.metrics import TEXT_QUALITY
from mlux.prompts import Prompt
from mlux.registry import Cost, experiment
from mlux.results import Artifact, Fitted, Generation, Metric, Result, Values
from mlux.steps import UNKEPT, Steps

MOST_ALPHA = 1e6  # residual norms; beyond it half precision is infinite, and texts are noise
METRICS = (
    Metric(
        name="positive_register",
        unit="share",
        description="Generations that the judge finds of the positive label rather than the other.",
    ),
    Metric(
        name="judge_logit_diff",
        unit="logits",
        description="The judge's logit(judge_positive) - logit(judge_negative).",
    ),
    Metric(
        name="contrast_logit_diff",
        unit="logits",
        description="At the steered prompt's end: log-sum-exp of the logits of what follows the "
        "positive prompts, minus that of what follows the negative ones.",
    ),
    *TEXT_QUALITY,
    Metric(
        name="strength",
        unit="residual norms",
        description="Length of the edit in mean residual norms, with its sign.",
    ),
    Metric(
        name="resid_norm",
        unit="length",
        description="Mean length of the residual stream after the block, at the prompts' ends.",
    ),
    Metric(
        name="calibrated_strength",
        unit="residual norms",
        description="The strength at which the contrast's prompts change sides, for each block.",
    ),
    Metric(
        name="calibrated_effect",
        unit="probability",
        better="higher",
        description="The probability of the other side's tokens at that strength.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class SteeringConfig:
    """Options of steering."""

    method: Method = field(
        default="mean",
        metadata={"help": "how the direction is learned: mean (CAA), pca, probe"},
    )
    layers: tuple[int, ...] | None = field(
        default=None, metadata={"help": "steer after these blocks; none: two thirds of the way up"}
    )
    together: bool = field(
        default=False, metadata={"help": "steer after all of them at once instead of one by one"}
    )
    alphas: tuple[float, ...] = field(
        default=(-0.5, -0.25, 0.0, 0.25, 0.5),
        metadata={"help": "strengths, in units of the mean residual norm after the block"},
    )
    calibrate: float | None = field(
        default=0.85,
        metadata={"help": "find the strength with this effect (a probability) too; none: do not"},
    )
    positive: str = field(default="positive", metadata={"help": "label of what alpha > 0 gives"})
    negative: str = field(default="negative", metadata={"help": "label of the opposite"})
    upto: Literal["subject", "end"] = field(
        default="subject",
        metadata={"help": "read and steer prompts up to their subject, or whole"},
    )
    folds: int = field(
        default=2, metadata={"help": "a prompt is steered by what was learned from other folds"}
    )
    max_tokens: int = field(default=16, metadata={"help": "the most tokens to generate"})
    samples: int = field(default=1, metadata={"help": "texts for each prompt and condition"})
    temperature: float = field(default=1.0, metadata={"help": "of sampling; 0 is greedy"})
    stop: str = field(default="rating", metadata={"help": "text that ends a generation; may be ''"})
    judge: str = field(
        default="review : {generation} rating :",
        metadata={"help": "the question to the unsteered model, with {generation} in it"},
    )
    judge_positive: str = field(default="good", metadata={"help": "its answer for the positive"})
    judge_negative: str = field(default="bad", metadata={"help": "its answer for the negative"})
    control: bool = field(
        default=True, metadata={"help": "steer with a random direction of equal length, too"}
    )

    def __post_init__(self) -> None:
        if self.calibrate is not None and not 0.5 <= self.calibrate < 1:
            raise ValueError(f"calibrate is {self.calibrate}; expected 0.5 up to less than 1")
        if self.folds < 2 or self.samples < 1 or self.max_tokens < 1 or self.temperature < 0:
            raise ValueError(
                f"folds is {self.folds}, samples {self.samples}, max_tokens {self.max_tokens} and "
                f"temperature {self.temperature}; expected at least 2, 1, 1 and 0"
            )
        if "{generation}" not in self.judge:
            raise ValueError(f"judge is {self.judge!r}; it has to contain {{generation}}")
        if self.positive == self.negative:
            raise ValueError(f"positive and negative are both {self.positive!r}")
        if any(abs(alpha) > MOST_ALPHA for alpha in self.alphas):
            raise ValueError(
                f"alphas are {', '.join(map(str, self.alphas))}; expected at most {MOST_ALPHA:g} "
                "either way: they are in units of the residual norm"
            )
        if len(set(self.alphas)) < len(self.alphas):
            raise ValueError(f"alphas names one twice: {', '.join(map(str, self.alphas))}")


@dataclass(frozen=True, kw_only=True)
class _Learned:
    """What the trials need, by prompt or by fold."""

    prompts: tuple[Prompt, ...]
    starts: tuple[tuple[int, ...], ...]
    folds: list[int]
    contrast: Contrast
    directions: dict[int, Direction]
    randoms: dict[int, Direction]
    calibrations: dict[tuple[int, Layers], Calibration]
    seed: int

    def number(self, trial: Trial) -> int:
        return self.prompts.index(trial.encoded.prompt)


def _sites(config: SteeringConfig, n_layers: int) -> list[Layers]:
    """Which blocks are steered at once, one entry a condition."""
    layers = config.layers if config.layers is not None else (2 * n_layers // 3,)
    beyond = [layer for layer in layers if not 0 <= layer < n_layers]
    if beyond:
        raise ParameterError(
            f"steering: there is no block {beyond[0]}; this model has 0 to {n_layers - 1}."
        )
    return [tuple(sorted(layers))] if config.together else [(layer,) for layer in layers]


def _conditions(config: SteeringConfig, model: Mapping[str, Any]) -> Sequence[Mapping[str, str]]:
    strengths = [{"alpha": f"{alpha:g}"} for alpha in config.alphas]
    if config.calibrate is not None:
        strengths += [{"calibrated": label} for label in (config.negative, config.positive)]
    found: list[dict[str, str]] = []
    for layers in _sites(config, model["n_layers"]):
        for strength in strengths:
            condition = {"layer": "+".join(map(str, layers)), **strength}
            found.append(condition)
            if config.control and strength.get("alpha") not in ("0", "-0"):
                found.append(condition | {"control": "random"})
    return found


def _cost(
    config: SteeringConfig, model: Mapping[str, Any], condition: Mapping[str, str], n_tokens: int
) -> Cost:
    whole = n_tokens + config.max_tokens
    reports = condition.get("calibrated") == config.positive and "control" not in condition
    values = len(METRICS) + 2 * model["n_layers"] * reports
    # The prompt, what is written, its perplexity and its judgement, and the contrast at the end.
    return Cost(
        forward_passes=2 + config.samples * (1 + 2 * whole / n_tokens),
        unembedded=1 + config.samples * (2 + whole),
        generated=config.samples * config.max_tokens,
        values=values,
    )


def _fit_cost(
    config: SteeringConfig, model: Mapping[str, Any], n_prompts: int, n_tokens: float
) -> Cost:
    read = Cost(forward_passes=n_prompts)
    if config.calibrate is None:
        return read
    # About thirteen strengths a block and fold, each through half of the blocks on average.
    strengths = 13 * model["n_layers"] * (config.folds - 1) * n_prompts
    return read + Cost(forward_passes=strengths / 2, unembedded=strengths, rows=min(n_prompts, 32))


def _check(
    model: HookedModel, config: SteeringConfig, encoded: Sequence[EncodedPrompt], seed: int
) -> None:
    prompts = tuple(one.prompt for one in encoded)
    starts = tuple(map(before_subject, prompts)) if config.upto == "subject" else prompts
    learn_contrast(model, starts, (config.positive, config.negative), config.folds, seed)


def _fit(
    model: HookedModel,
    config: SteeringConfig,
    encoded: Sequence[EncodedPrompt],
    seed: int,
    steps: Steps = UNKEPT,
) -> Fitted:
    prompts = tuple(one.prompt for one in encoded)
    starts = tuple(map(before_subject, prompts)) if config.upto == "subject" else prompts
    labels = (config.positive, config.negative)
    contrast, folds = learn_contrast(model, starts, labels, config.folds, seed)
    layers = range(model.config["n_layers"])
    directions = learn_directions(model, contrast, layers, config.method)
    for group, direction in product(_sites(config, len(layers)), directions.values()):
        direction.added(group, 0.0)  # raises where there is nothing to steer by
    calibrations = {}
    if config.calibrate is not None:
        for fold, direction in directions.items():
            single = [(layer,) for layer in direction.units]
            for group in dict.fromkeys([*single, *_sites(config, len(layers))]):
                calibrations[fold, group] = calibrate(
                    model, contrast, fold, direction, group, config.calibrate, steps
                )
    learned = _Learned(
        prompts=prompts,
        starts=tuple(tuple(encode_prompt(model.tokenizer, start)) for start in starts),
        folds=folds,
        contrast=contrast,
        directions=directions,
        randoms=random_directions(directions, seed),
        calibrations=calibrations,
        seed=seed,
    )
    vectors = Artifact(
        name="steering_vectors",
        kind="vectors",
        arrays={
            f"fold_{fold}.layer_{layer}": vector
            for fold, direction in directions.items()
            for layer, vector in direction.units.items()
        },
        metadata={
            "method": config.method,
            "from": config.negative,
            "towards": config.positive,
            "fold_k": "unit vectors learned from the prompts of the other folds",
        },
    )
    return Fitted(state=learned, artifacts=[vectors])


@experiment(
    metrics=METRICS,
    prompts="reviews:32",
    roles=(),
    conditions=_conditions,
    cost=_cost,
    check=_check,
    fit=_fit,
    fit_cost=_fit_cost,
    sites=("resid_pre", "resid_post"),
    paper="Turner et al. (2023), ActAdd; Rimsky et al. (2024), CAA; Zou et al. (2023), RepE",
)
def steering(
    model: HookedModel, config: SteeringConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Steers generations along a direction that two labels of prompts differ in.

    Every prompt is continued at each strength by what was learned from other prompts; the unsteered
    model judges the register of what was written, and how likely the text is. A random direction of
    equal length is the control.
    """
    learned: _Learned = batch.fitted
    for fold in sorted(learned.directions):
        trials = [trial for trial in batch if learned.folds[learned.number(trial)] == fold]
        if trials:
            yield from _steer(model, config, batch.condition, learned, fold, trials)


def _steer(
    model: HookedModel,
    config: SteeringConfig,
    condition: Mapping[str, str],
    learned: _Learned,
    fold: int,
    trials: Sequence[Trial],
) -> Iterator[tuple[Trial, Result]]:
    layers = tuple(map(int, condition["layer"].split("+")))
    direction = (learned.randoms if "control" in condition else learned.directions)[fold]
    if "alpha" in condition:
        strength = float(condition["alpha"])
    else:
        sign = 1 if condition["calibrated"] == config.positive else -1
        strength = sign * learned.calibrations[fold, layers].strength
    added = direction.added(layers, strength)
    rows = [learned.starts[learned.number(trial)] for trial in trials]
    # The same is drawn at every strength.
    seed = zlib.crc32(f"{learned.seed} {learned.number(trials[0])}".encode())
    written = write_steered(
        model,
        rows,
        added,
        samples=config.samples,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        seed=seed,
        stop=config.stop,
    )
    judge = Judge(
        question=config.judge, positive=config.judge_positive, negative=config.judge_negative
    )
    by_metric: Columns = {
        **register(model, written, judge),
        **language(model, rows, written),
        **at_the_end(model, learned.contrast, rows, added),
        "strength": [strength] * len(trials),
    }
    for row, trial in enumerate(trials):
        for sample, done in enumerate(written[row]):
            yield trial, Generation(text=done.text, token_ids=done.token_ids, sample=sample)
        for name, values in by_metric.items():
            value = values[row]
            if value is not None:
                yield trial, Values(metric=name, values=value)
        norms = {layer: direction.norms[layer] for layer in layers}
        yield trial, _by_layer("resid_norm", norms)
        # Once a trial, not with each direction and control: they share the calibration.
        if condition.get("calibrated") == config.positive and "control" not in condition:
            found = {layer: learned.calibrations[fold, (layer,)] for layer in direction.units}
            strengths = {layer: of_layer.strength for layer, of_layer in found.items()}
            yield trial, _by_layer("calibrated_strength", strengths)
            effects = {layer: of_layer.effect for layer, of_layer in found.items()}
            yield trial, _by_layer("calibrated_effect", effects)


def _by_layer(metric: str, values: Mapping[int, float]) -> Values:
    return Values(
        metric=metric, values=list(values.values()), axes=("layer",), index={"layer": list(values)}
    )
