"""Activation patching: where is the difference between two prompts decided?"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, Literal, get_args

from mlux.engine import HookedModel
from mlux.engine.trials import MEMORY, EncodedPrompt, PromptBatch, Trial
from mlux.errors import PromptError
from mlux.methods.edits import HEAD_SITES, Edit, SiteName, edits_of
from mlux.methods.patching import (
    Head,
    PatchingResult,
    effects_of_heads,
    elsewhere,
    every_edit,
    random_sets,
    strongest,
    together,
)
from mlux.methods.patching import activation_patching as patch
from mlux.metrics import (
    ANSWER_PROBABILITY,
    CLEAN_LOGIT_DIFF,
    CORRUPTED_LOGIT_DIFF,
    KL_TO_CLEAN,
    LOGIT_DIFF,
    PATCHING_EFFECT,
)
from mlux.registry import Cost, experiment
from mlux.results import Fitted, Result, Values, at
from mlux.steps import UNKEPT, Steps

METRICS = (
    PATCHING_EFFECT,
    LOGIT_DIFF,
    ANSWER_PROBABILITY,
    KL_TO_CLEAN,
    CLEAN_LOGIT_DIFF,
    CORRUPTED_LOGIT_DIFF,
)
RANDOM_SETS = 9
"""Sets of random heads of which the median is reported."""


@dataclass(frozen=True, kw_only=True)
class ActivationPatchingConfig:
    """Options of activation patching."""

    sites: tuple[SiteName, ...] = field(
        default=("resid_pre", "attn_out", "mlp_out", "head"),
        metadata={"help": "what to patch: " + ", ".join(get_args(SiteName))},
    )
    direction: Literal["denoising", "noising"] = field(
        default="denoising",
        metadata={"help": "clean into the corrupted run, or corrupted into the clean run"},
    )
    head_positions: Literal["all", "each"] = field(
        default="all", metadata={"help": "patch a head at all positions at once, or one by one"}
    )
    top_heads: int = field(
        default=4,
        metadata={
            "help": "patch so many of the strongest heads together, chosen on other prompts; "
            "0 for none"
        },
    )
    controls: bool = field(
        default=True,
        metadata={"help": "also patch a run into itself, from random places, and random heads"},
    )

    def __post_init__(self) -> None:
        if len(set(self.sites)) < len(self.sites):
            raise ValueError(f"sites names one twice: {', '.join(self.sites)}")
        if self.top_heads < 0:
            raise ValueError(f"top_heads is {self.top_heads}; expected 0 or more")


def _conditions(
    config: ActivationPatchingConfig, model: Mapping[str, Any]
) -> Sequence[Mapping[str, str]]:
    found: list[dict[str, str]] = []
    for site in config.sites:
        found.append({"site": site})
        if config.controls:
            found += [{"site": site, "control": control} for control in ("self", "random")]
    if "head" in config.sites and config.top_heads:
        found.append({"site": "top_heads"})
        if config.controls:
            found.append({"site": "top_heads", "control": "random"})
    return found


def _by_position(config: ActivationPatchingConfig, site: str) -> bool:
    return site not in HEAD_SITES or config.head_positions == "each"


def _cost(
    config: ActivationPatchingConfig,
    model: Mapping[str, Any],
    condition: Mapping[str, str],
    n_tokens: int,
) -> Cost:
    site = condition["site"]
    if site == "top_heads":
        sets = RANDOM_SETS if "control" in condition else 1
        return Cost(forward_passes=2 * sets + 4, rows=sets, values=6)
    edits = model["n_heads"] if site in HEAD_SITES else 1
    edits *= n_tokens if _by_position(config, site) else 1
    layers = model["n_layers"]
    return Cost.of_sweep(layers, edits, n_tokens, values=4 * layers * edits + 2)


def _check(
    model: HookedModel,
    config: ActivationPatchingConfig,
    prompts: Sequence[EncodedPrompt],
    seed: int,
) -> None:
    if "head" not in config.sites or not config.top_heads:
        return
    if len(prompts) < 2:
        raise PromptError(
            "The top heads of a prompt are chosen on other prompts; give at least two, or "
            "-p top_heads=0."
        )


def _fit(
    model: HookedModel,
    config: ActivationPatchingConfig,
    prompts: Sequence[EncodedPrompt],
    seed: int,
    memory: int = MEMORY,
    solved: Sequence[bool] = (),
    steps: Steps = UNKEPT,
) -> Fitted:
    """Prompt → the strongest heads of the other half of the solved prompts."""
    if "head" not in config.sites or not config.top_heads:
        return Fitted(state=None)
    # An effect of a prompt that is not solved chooses nothing, unless there are too few others.
    counted = [one for one, good in zip(prompts, solved, strict=True) if good] if solved else []
    counted = counted if len(counted) > 1 else list(prompts)
    half = {encoded.prompt: number % 2 for number, encoded in enumerate(counted)}
    effects: list[dict[Head, list[float]]] = [{}, {}]

    def search(encoded: EncodedPrompt) -> Iterator[tuple[Head, float]]:
        edits = every_edit(model, "head", len(encoded.ids), by_position=False)
        for found in _patch(model, config, encoded, edits, memory=memory).effects:
            (edit,) = edits_of(found.row)
            assert edit.head is not None
            yield (edit.layer, edit.head), found.effect

    for encoded in counted:
        of_half, number = effects[half[encoded.prompt]], prompts.index(encoded)
        with suppress(PromptError):  # it fails in its own trial, which says why
            for head, effect in effects_of_heads(steps, number, partial(search, encoded)):
                of_half.setdefault(head, []).append(effect)
    chosen = [strongest(found, config.top_heads) for found in reversed(effects)]
    return Fitted(state={one.prompt: chosen[half.get(one.prompt, 0)] for one in prompts})


def _fit_cost(
    config: ActivationPatchingConfig, model: Mapping[str, Any], n_prompts: int, n_tokens: float
) -> Cost:
    if "head" not in config.sites or not config.top_heads:
        return Cost(forward_passes=0)
    return Cost.of_sweep(model["n_layers"], model["n_heads"], n_tokens) * n_prompts


@experiment(
    metrics=METRICS,
    prompts="ioi:6",
    roles=("corrupted", "answer", "wrong_answer"),
    aligned=True,
    gate="pair",
    conditions=_conditions,
    cost=_cost,
    check=_check,
    fit=_fit,
    fit_cost=_fit_cost,
    sites=lambda config: ("resid_pre", *config.sites),
    paper="Meng et al. (2022), ROME; Zhang & Nanda (2024), best practices of activation patching",
)
def activation_patching(
    model: HookedModel, config: ActivationPatchingConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Patches one activation at a time from one run into the other.

    The residual stream, attention and MLP outputs are patched at every layer and position, heads
    and their queries, keys, values and patterns at every layer. The effect is 0 for the run that is
    patched and 1 for the one that the patch comes from. The condition `top_heads` patches the
    strongest heads together, chosen on the half of the prompts that a prompt is not in. Controls:
    the run patched into itself, activations of random other positions or heads, and the median of
    nine sets of random heads.
    """
    for trial in batch:
        generator = random.Random(f"{batch.seed} {trial.number}")
        if batch.condition["site"] == "top_heads":
            yield from _together(model, config, batch, trial, generator)
            continue
        site: SiteName = batch.condition["site"]  # type: ignore[assignment] # from the config
        seq = len(trial.encoded.ids)
        edits = every_edit(model, site, seq, by_position=_by_position(config, site))
        control = batch.condition.get("control")
        made: Sequence[Edit] = edits
        if control == "random":
            made = elsewhere(model, edits, seq, generator)
        result = _patch(
            model, config, trial.encoded, made, itself=control == "self", memory=batch.memory
        )
        for values in _values(result):
            yield trial, values


def _patch(
    model: HookedModel,
    config: ActivationPatchingConfig,
    encoded: EncodedPrompt,
    edits: Sequence[Any],
    *,
    itself: bool = False,
    memory: int,
) -> PatchingResult:
    assert encoded.corrupted is not None
    assert encoded.answer is not None
    assert encoded.wrong_answer is not None
    return patch(
        model,
        encoded.ids,
        encoded.corrupted,
        answer=encoded.answer,
        wrong_answer=encoded.wrong_answer,
        edits=edits,
        direction=config.direction,
        itself=itself,
        memory=memory,
    )


def _together(
    model: HookedModel,
    config: ActivationPatchingConfig,
    batch: PromptBatch,
    trial: Trial,
    generator: random.Random,
) -> Iterator[tuple[Trial, Result]]:
    heads = batch.fitted[trial.encoded.prompt]
    sets = [heads]
    if "control" in batch.condition:
        sets = random_sets(model, heads, RANDOM_SETS, generator)
    result = _patch(model, config, trial.encoded, list(map(together, sets)), memory=batch.memory)
    for metric in ("patching_effect", "logit_diff", "answer_probability", "kl_to_clean"):
        values = [getattr(effect, FIELDS[metric]) for effect in result.effects]
        yield trial, Values(metric=metric, values=median(values))
    yield trial, Values(metric="clean_logit_diff", values=result.clean)
    yield trial, Values(metric="corrupted_logit_diff", values=result.corrupted)


FIELDS = {
    "patching_effect": "effect",
    "logit_diff": "logit_diff",
    "answer_probability": "probability",
    "kl_to_clean": "kl_to_clean",
}


def _values(result: PatchingResult) -> Iterator[Values]:
    yield Values(metric="clean_logit_diff", values=result.clean)
    yield Values(metric="corrupted_logit_diff", values=result.corrupted)
    for effect in result.effects:
        (edit,) = edits_of(effect.row)
        for metric, name in FIELDS.items():
            yield at(
                metric,
                getattr(effect, name),
                layer=edit.layer,
                head=edit.head,
                position=edit.position,
            )
