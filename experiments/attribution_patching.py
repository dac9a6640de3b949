"""Attribution patching: the effect of every patch at once, from gradients."""

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mlux.engine import HookedModel
from mlux.engine.arrays import numbers
from mlux.engine.trials import PromptBatch, Trial
from mlux.methods.attribution_patching import NoGradientError, pearson
from mlux.methods.attribution_patching import attribution_patching as attribute
from mlux.methods.edits import HEAD_SITES, Edit, SiteName, edits_of, every_edit
from mlux.methods.patching import activation_patching as patch
from mlux.metrics import PATCHING_EFFECT
from mlux.registry import Cost, experiment
from mlux.results import Metric, Result, at

Place = tuple[int, int | None, int | None]
"""(layer, head, position)."""

MOST_STEPS = 1_000  # more is a slip of the finger, and fills the memory
METRICS = (
    Metric(
        name="attribution_effect",
        unit="fraction",
        better="higher",
        description="First-order estimate of patching_effect.",
    ),
    PATCHING_EFFECT,
    Metric(
        name="correlation",
        unit="r",
        better="higher",
        description="Pearson correlation of the estimates with the exact effects, over the places "
        "of one prompt.",
    ),
    Metric(
        name="has_gradient",
        unit="yes or no",
        description="0 where a kernel of the model has no gradient and only the exact sweep ran.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class AttributionPatchingConfig:
    """Options of attribution patching."""

    sites: tuple[SiteName, ...] = field(
        default=("head", "resid_pre", "attn_out", "mlp_out"),
        metadata={"help": "what to estimate: " + ", ".join(get_args(SiteName))},
    )
    direction: Literal["denoising", "noising"] = field(
        default="denoising",
        metadata={"help": "clean into the corrupted run, or corrupted into the clean run"},
    )
    steps: int = field(
        default=5,
        metadata={"help": "backward passes: 1 at the run that is patched, more on the way between"},
    )
    exact: bool = field(
        default=True, metadata={"help": "also patch for real, and correlate the two"}
    )

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps is {self.steps}; expected 1 to {MOST_STEPS}")


def _conditions(
    config: AttributionPatchingConfig, model: Mapping[str, Any]
) -> Sequence[Mapping[str, str]]:
    found: list[dict[str, str]] = []
    for site in config.sites:
        found.append({"site": site})
        if config.exact:
            found.append({"site": site, "control": "random"})
    return found


def _cost(
    config: AttributionPatchingConfig,
    model: Mapping[str, Any],
    condition: Mapping[str, str],
    n_tokens: int,
) -> Cost:
    per_layer = model["n_heads"] if condition["site"] in HEAD_SITES else n_tokens
    layers = model["n_layers"]
    cost = Cost(
        forward_passes=2 + 3 * config.steps,
        unembedded=2 + 2 * config.steps,
        rows=1,
        values=2 * layers * per_layer + 2,
    )
    return cost + Cost.of_sweep(layers, per_layer, n_tokens) if config.exact else cost


@experiment(
    metrics=METRICS,
    prompts="ioi:4",
    roles=("corrupted", "answer", "wrong_answer"),
    aligned=True,
    gate="pair",
    conditions=_conditions,
    cost=_cost,
    sites=lambda config: ("resid_pre", *config.sites),
    paper="Nanda (2023), Attribution Patching; Syed et al. (2023); Hanna et al. (2024) for steps",
)
def attribution_patching(
    model: HookedModel, config: AttributionPatchingConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Estimates every patch of activation_patching from gradients, and says how well.

    Two forward passes and one backward pass (or `steps` of them) give all heads, layers and
    positions. The exact sweep runs beside it, and their correlation over the places of a prompt is
    stored. The control correlates the estimates with the exact effects of shuffled places. Where a
    kernel of the model has no gradient, a warning says so and only the exact sweep is stored.
    """
    site: SiteName = batch.condition["site"]  # type: ignore[assignment] # from the config
    for trial in batch:
        estimates = _estimates(model, config, trial, site)
        control = "control" in batch.condition
        if not control:
            yield trial, at("has_gradient", float(estimates is not None))
            for (layer, head, position), value in (estimates or {}).items():
                yield (
                    trial,
                    at("attribution_effect", value, layer=layer, head=head, position=position),
                )
        if not config.exact and estimates is not None:
            continue
        exact = _exact(model, config, trial, site, batch.memory)
        if not control:
            for (layer, head, position), value in exact.items():
                yield (
                    trial,
                    at("patching_effect", value, layer=layer, head=head, position=position),
                )
        if estimates is not None:
            places = list(exact)
            shown = places
            if control:
                shown = random.Random(f"{batch.seed} {trial.number}").sample(places, len(places))
            r = pearson([estimates[place] for place in shown], [exact[place] for place in places])
            if r is not None:
                yield trial, at("correlation", r)


def _estimates(
    model: HookedModel, config: AttributionPatchingConfig, trial: Trial, site: SiteName
) -> dict[Place, float] | None:
    encoded = trial.encoded
    assert encoded.corrupted is not None
    assert encoded.answer is not None
    assert encoded.wrong_answer is not None
    pair = (encoded.corrupted, encoded.ids)
    try:
        found = attribute(
            model,
            *(pair if config.direction == "denoising" else pair[::-1]),
            answer=encoded.answer,
            wrong_answer=encoded.wrong_answer,
            wanted=[site],
            steps=config.steps,
        )
    except NoGradientError as error:
        warnings.warn(f"{error} Only the exact sweep is run.", stacklevel=2)
        return None
    places: dict[Place, float] = {}
    for one in found:
        by_head = site in HEAD_SITES
        for i, value in enumerate(numbers(one.effects.sum(axis=-1) if by_head else one.effects)):
            places[one.layer, i if by_head else None, None if by_head else i] = value
    return places


def _exact(
    model: HookedModel,
    config: AttributionPatchingConfig,
    trial: Trial,
    site: SiteName,
    memory: int,
) -> dict[Place, float]:
    encoded = trial.encoded
    assert encoded.corrupted is not None
    assert encoded.answer is not None
    assert encoded.wrong_answer is not None
    result = patch(
        model,
        encoded.ids,
        encoded.corrupted,
        answer=encoded.answer,
        wrong_answer=encoded.wrong_answer,
        edits=every_edit(model, site, len(encoded.ids), by_position=site not in HEAD_SITES),
        direction=config.direction,
        memory=memory,
    )
    return {_place(edits_of(one.row)[0]): one.effect for one in result.effects}


def _place(edit: Edit) -> Place:
    return edit.layer, edit.head, edit.position
