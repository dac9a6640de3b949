"""Activation patching: where is the difference between two prompts decided?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mlux.engine import HookedModel
from mlux.engine.trials import PromptBatch, Trial
from mlux.methods.patching import PatchingResult, every_edit
from mlux.methods.patching import activation_patching as patch
from mlux.methods.sweeps import Edit, SiteName, edits_of
from mlux.metrics import CLEAN_LOGIT_DIFF, CORRUPTED_LOGIT_DIFF, LOGIT_DIFF, PATCHING_EFFECT
from mlux.registry import Cost, experiment
from mlux.results import Result, Values

METRICS = (PATCHING_EFFECT, LOGIT_DIFF, CLEAN_LOGIT_DIFF, CORRUPTED_LOGIT_DIFF)


@dataclass(frozen=True, kw_only=True)
class ActivationPatchingConfig:
    """Options of activation patching."""

    sites: tuple[SiteName, ...] = field(
        default=("resid_pre", "attn_out", "mlp_out", "head"),
        metadata={"help": "what to patch: " + ", ".join(get_args(SiteName))},
    )
    head_positions: Literal["all", "each"] = field(
        default="all", metadata={"help": "patch a head at all positions at once, or one by one"}
    )

    def __post_init__(self) -> None:
        if len(set(self.sites)) < len(self.sites):
            raise ValueError(f"sites names one twice: {', '.join(self.sites)}")


def _conditions(
    config: ActivationPatchingConfig, model: Mapping[str, Any]
) -> Sequence[Mapping[str, str]]:
    return [{"site": site} for site in config.sites]


def _by_position(config: ActivationPatchingConfig, site: str) -> bool:
    return site != "head" or config.head_positions == "each"


def _cost(
    config: ActivationPatchingConfig,
    model: Mapping[str, Any],
    condition: Mapping[str, str],
    n_tokens: int,
) -> Cost:
    site = condition["site"]
    edits = model["n_layers"] * (model["n_heads"] if site == "head" else 1)
    edits *= n_tokens if _by_position(config, site) else 1
    # A patch at layer l runs the layers from l on: half of them on average.
    return Cost(forward_passes=edits / 2 + 2, values=2 * edits + 2)


@experiment(
    metrics=METRICS,
    prompts="ioi:32",
    roles=("corrupted", "answer", "wrong_answer"),
    conditions=_conditions,
    cost=_cost,
    sites=lambda config: ("resid_pre", *config.sites),
    paper="Meng et al. (2022), ROME; Zhang & Nanda (2024), best practices of activation patching",
)
def activation_patching(
    model: HookedModel, config: ActivationPatchingConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Patches one activation at a time from the clean run into the corrupted run.

    The residual stream, attention and MLP outputs are patched at every layer and position, heads at
    every layer. The effect is 0 for the corrupted run and 1 for the clean one.
    """
    site: SiteName = batch.condition["site"]  # type: ignore[assignment] # from the config's sites
    by_position = _by_position(config, site)
    for trial in batch:
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
            edits=every_edit(model, site, len(encoded.ids), by_position=by_position),
            memory=batch.memory,
        )
        for values in _values(result):
            yield trial, values


def _values(result: PatchingResult) -> Iterator[Values]:
    yield Values(metric="clean_logit_diff", values=result.clean)
    yield Values(metric="corrupted_logit_diff", values=result.corrupted)
    for row, logit_diff, effect in result.effects:
        (edit,) = edits_of(row)
        yield _at(edit, "logit_diff", logit_diff)
        yield _at(edit, "patching_effect", effect)


def _at(edit: Edit, metric: str, value: float) -> Values:
    places = {"layer": edit.layer, "head": edit.head, "position": edit.position}
    index = {axis: [place] for axis, place in places.items() if place is not None}
    nested: Any = value
    for _ in index:
        nested = [nested]
    return Values(metric=metric, values=nested, axes=tuple(index), index=index)  # type: ignore[arg-type] # the axes' names
