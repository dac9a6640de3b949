"""Path patching: which heads and MLPs act on the answer, or on certain heads, directly?"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from mlux.engine import HookedModel
from mlux.engine.trials import MEMORY, EncodedPrompt, PromptBatch, Trial
from mlux.errors import ParameterError, PromptError
from mlux.methods.edits import Edit
from mlux.methods.patching import (
    Head,
    effects_of_heads,
    every_head,
    named_heads,
    random_sets,
    require_heads,
    strongest,
)
from mlux.methods.path_patching import PathEffect, every_sender, require_sum
from mlux.methods.path_patching import path_patching as patch
from mlux.metrics import LOGIT_DIFF
from mlux.registry import Cost, experiment
from mlux.results import Fitted, Metric, Result, at
from mlux.steps import UNKEPT, Steps

Receiver = Literal["logits", "q", "k", "v"]
METRICS = (
    Metric(
        name="path_effect",
        unit="fraction",
        description="Share of the logit difference that the path from a sender moves: 0 is the "
        "prompt's own run, 1 the corrupted run. Without a head the sender is the layer's MLP.",
    ),
    LOGIT_DIFF,
)


@dataclass(frozen=True, kw_only=True)
class PathPatchingConfig:
    """Options of path patching."""

    receivers: tuple[Receiver, ...] = field(
        default=("logits", "q", "k", "v"),
        metadata={"help": "where paths end, the logits or inputs of heads: logits, q, k, v"},
    )
    heads: tuple[str, ...] = field(
        default=("top",),
        metadata={
            "help": "the heads that receive, as in 2.0,2.3; by default the top_k that act most on "
            "the logits directly"
        },
    )
    top_k: int = field(default=2, metadata={"help": "how many heads `top` stands for"})
    through: tuple[int, ...] = field(
        default=(), metadata={"help": "layers whose MLPs may pass the change on, as in 1,2"}
    )
    controls: bool = field(
        default=True,
        metadata={"help": "also send a prompt's own, and patch paths to as many random heads"},
    )

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; expected at least 1")
        if self.heads != ("top",):
            named_heads(self.heads)


def _conditions(
    config: PathPatchingConfig, model: Mapping[str, Any]
) -> Sequence[Mapping[str, str]]:
    found: list[dict[str, str]] = []
    for receiver in config.receivers:
        found.append({"receiver": receiver})
        if config.controls:
            control = "self" if receiver == "logits" else "random"
            found.append({"receiver": receiver, "control": control})
    return found


def _cost(
    config: PathPatchingConfig,
    model: Mapping[str, Any],
    condition: Mapping[str, str],
    n_tokens: int,
) -> Cost:
    layers, heads = model["n_layers"], model["n_heads"]
    # All that is frozen is not computed: to the logits a path costs its sender's block alone, and
    # to a receiver, for the half of the senders before it, the blocks from there on.
    share = 1 / layers + (0 if condition["receiver"] == "logits" else 0.25)
    cost = Cost.of_sweep(layers, heads, n_tokens, share=share, values=2 * layers * (heads + 1))
    return cost + Cost.of_sweep(layers, 1, n_tokens, share=share)


def _check(
    model: HookedModel, config: PathPatchingConfig, prompts: Sequence[EncodedPrompt], seed: int
) -> None:
    require_sum(model)
    beyond = [layer for layer in config.through if not 0 <= layer < len(model.layers)]
    if beyond:
        raise ParameterError(f"path_patching: this model has no layer {beyond[0]}.")
    if config.heads != ("top",):
        require_heads(model, named_heads(config.heads))


def _fit(
    model: HookedModel,
    config: PathPatchingConfig,
    prompts: Sequence[EncodedPrompt],
    seed: int,
    memory: int = MEMORY,
    solved: Sequence[bool] = (),
    steps: Steps = UNKEPT,
) -> Fitted:
    """The heads that receive: those of the largest mean direct effect on the logits."""
    if config.heads != ("top",):
        return Fitted(state=named_heads(config.heads))
    effects: dict[Head, list[float]] = {head: [] for head in every_head(model)}
    senders = [edit for edit in every_sender(model) if edit.head is not None]
    counted = [one for one, good in zip(prompts, solved, strict=True) if good] if solved else []

    def search(encoded: EncodedPrompt) -> Iterator[tuple[Head, float]]:
        for one in _patch(model, config, encoded, senders, [], memory):
            assert one.sender.head is not None
            yield (one.sender.layer, one.sender.head), one.effect

    for encoded in counted or prompts:
        number = prompts.index(encoded)
        with suppress(PromptError):  # it fails in its own trial, which says why
            for head, effect in effects_of_heads(steps, number, partial(search, encoded)):
                effects[head].append(effect)
    known = {head: values for head, values in effects.items() if values}
    return Fitted(state=strongest(known, config.top_k))


@experiment(
    metrics=METRICS,
    prompts="induction:8",
    roles=("corrupted", "answer", "wrong_answer"),
    aligned=True,
    gate="pair",
    conditions=_conditions,
    cost=_cost,
    check=_check,
    fit=_fit,
    fit_cost=lambda config, model, n_prompts, n_tokens: (
        Cost.of_sweep(model["n_layers"], model["n_heads"], n_tokens, share=1 / model["n_layers"])
        * (n_prompts * (config.heads == ("top",)))
    ),
    sites=("resid_pre", "head", "q", "k", "v"),
    paper="Wang et al. (2022), Interpretability in the Wild; Goldowsky-Dill et al. (2023)",
)
def path_patching(
    model: HookedModel, config: PathPatchingConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Patches the path from each head and MLP to the logits, or to queries, keys, values of heads.

    The sender is as in the corrupted prompt, everything between it and the receiver as in the
    prompt's own run (but for the MLPs of `through`), and the receiver passes on what it then reads.
    Receiving heads are by default the two that act most on the logits directly. Controls: the
    paths to as many random heads of any layer, and to the logits from the prompt's own senders.
    """
    receiver = batch.condition["receiver"]
    itself = batch.condition.get("control") == "self"
    senders = every_sender(model)
    for trial in batch:
        heads: Sequence[Head] = batch.fitted
        if batch.condition.get("control") == "random":
            generator = random.Random(f"{batch.seed} {trial.number}")
            (heads,) = random_sets(model, heads, 1, generator)
        receivers = [
            Edit(site=receiver, layer=layer, head=head)  # type: ignore[arg-type] # q, k or v
            for layer, head in heads
            if receiver != "logits"
        ]
        for one in _patch(model, config, trial.encoded, senders, receivers, batch.memory, itself):
            place = {"layer": one.sender.layer, "head": one.sender.head}
            yield trial, at("path_effect", one.effect, **place)
            yield trial, at("logit_diff", one.logit_diff, **place)


def _patch(
    model: HookedModel,
    config: PathPatchingConfig,
    encoded: EncodedPrompt,
    senders: Sequence[Edit],
    receivers: Sequence[Edit],
    memory: int,
    itself: bool = False,
) -> list[PathEffect]:
    assert encoded.corrupted is not None
    assert encoded.answer is not None
    assert encoded.wrong_answer is not None
    return patch(
        model,
        encoded.ids,
        encoded.corrupted,
        answer=encoded.answer,
        wrong_answer=encoded.wrong_answer,
        senders=senders,
        receivers=receivers,
        through=config.through,
        itself=itself,
        memory=memory,
    )
