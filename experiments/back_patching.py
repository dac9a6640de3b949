"""Back-patching: does a second pass through earlier layers mend two-hop answers?"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import mlx.core as mx

from mlux.engine import HookedModel, sites
from mlux.engine.arrays import numbers
from mlux.engine.batching import pad
from mlux.engine.spans import subject_span
from mlux.engine.trials import EncodedPrompt, PromptBatch, Trial
from mlux.methods.prompt_rows import prompts_in_budget, prompts_pass
from mlux.methods.scores import answer_logprob, answer_rank
from mlux.methods.sweeps import BasePass
from mlux.methods.two_hop import back_patches
from mlux.metrics import ACCURACY, ANSWER_PROBABILITY, ANSWER_RANK
from mlux.registry import Cost, experiment
from mlux.results import Fitted, Metric, RanTokens, Result, Values

Place = Literal["subject", "last"]
METRICS = (
    Metric(
        name="probability_gain",
        unit="probability difference",
        better="higher",
        description="The answer's probability with the patch, minus that without.",
    ),
    ACCURACY,
    ANSWER_RANK,
    ANSWER_PROBABILITY,
    Metric(
        name="unpatched_accuracy",
        unit="accuracy",
        better="higher",
        description="1 where the model answers right without a patch, else 0.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class BackPatchingConfig:
    """Options of back-patching."""

    places: tuple[Place, ...] = field(
        default=("subject", "last"),
        metadata={"help": "where to patch: the subject's last token, the prompt's last token"},
    )


def _conditions(
    config: BackPatchingConfig, model: Mapping[str, Any]
) -> Sequence[Mapping[str, str]]:
    pairs = [
        {"at": at, "source_layer": str(layer)}
        for at in config.places
        for layer in range(1, model["n_layers"])
    ]
    controls = ("other_prompt", "self")
    return [*pairs, *({**pair, "control": control} for control in controls for pair in pairs)]


def _fit(
    model: HookedModel, config: BackPatchingConfig, prompts: Sequence[EncodedPrompt], seed: int
) -> Fitted:
    """For each prompt another one with another answer, of equal length, for the control."""
    others = {}
    for number, encoded in enumerate(prompts):
        fitting = [
            other
            for other in prompts
            if len(other.ids) == len(encoded.ids) and other.answer != encoded.answer
        ]
        if fitting:
            others[encoded.prompt] = random.Random(f"{seed} {number}").choice(fitting)
    return Fitted(state=others)


def _cost(
    config: BackPatchingConfig,
    model: Mapping[str, Any],
    condition: Mapping[str, str],
    n_tokens: int,
) -> Cost:
    is_self = condition.get("control") == "self"
    source, layers = int(condition["source_layer"]), model["n_layers"]
    targets = [source] if is_self else range(source)
    own = 2 if condition.get("control") == "other_prompt" else 1
    passes = own + sum(1 - target / layers for target in targets)
    n = len(targets)
    return Cost(forward_passes=passes, unembedded=own + n, values=4 * n + 1)


@experiment(
    metrics=METRICS,
    prompts="two_hop",
    roles=("answer", "subject"),
    conditions=_conditions,
    fit=_fit,
    fit_cost=lambda config, model, n_prompts, n_tokens: Cost(forward_passes=0),
    cost=_cost,
    sites=("resid_pre", "resid_post"),
    paper="Biran et al. (2024), Hopping Too Late",
)
def back_patching(
    model: HookedModel, config: BackPatchingConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Puts the residual stream of a later layer where an earlier one was, at the same position.

    All pairs of layers: the condition names the source, the results' layer is the target. If the
    second hop came too late, the answer's probability rises. Controls: the same patch from another
    prompt, and from the layer itself, which changes nothing. Trials whose prompt has no other of
    equal length have no results under the first control.
    """
    trials = list(batch)
    if batch.condition.get("control") == "other_prompt":
        trials = [trial for trial in trials if trial.encoded.prompt in batch.fitted]
    if trials:
        seq = len(trials[0].encoded.ids)  # of all: a batch has one length
        rows = prompts_in_budget(
            model, len(trials), seq=seq, site="resid_post", memory=batch.memory
        )
        for start in range(0, len(trials), rows):
            yield from _patch(model, batch, trials[start : start + rows])


def _patch(
    model: HookedModel, batch: PromptBatch, trials: Sequence[Trial]
) -> Iterator[tuple[Trial, Result]]:
    control = batch.condition.get("control")
    source_layer = int(batch.condition["source_layer"])
    base = _pass(model, [trial.encoded for trial in trials], batch.memory)
    source = None
    if control == "other_prompt":
        others = [batch.fitted[trial.encoded.prompt] for trial in trials]
        source = _aligned(model, batch, others, trials, source_layer)
        for trial, other in zip(trials, others, strict=True):
            yield trial, RanTokens(role="patched_from", token_ids=other.ids)
    answers = mx.array([trial.encoded.answer for trial in trials])
    before = _scores(base.logits, answers)
    for trial, rank in zip(trials, before["answer_rank"], strict=True):
        yield trial, Values(metric="unpatched_accuracy", values=float(rank == 0))
    patches = back_patches(
        model,
        base,
        source_layer=source_layer,
        targets=[source_layer] if control == "self" else range(source_layer),
        positions=[_place(model, batch.condition["at"], trial.encoded) for trial in trials],
        source=source,
    )
    for target, logits in patches:
        after = _scores(logits, answers)
        for row, trial in enumerate(trials):
            values = {
                "accuracy": float(after["answer_rank"][row] == 0),
                "probability_gain": after["answer_probability"][row]
                - before["answer_probability"][row],
                **{name: scores[row] for name, scores in after.items()},
            }
            for name, value in values.items():
                index = {"layer": [target]}
                yield trial, Values(metric=name, values=[value], axes=("layer",), index=index)  # type: ignore[arg-type] # the axis' name


def _pass(model: HookedModel, prompts: Sequence[EncodedPrompt], memory: int) -> BasePass:
    tokens = pad([encoded.ids for encoded in prompts]).tokens
    return prompts_pass(model, tokens, site="resid_post", memory=memory)


def _place(model: HookedModel, at: str, encoded: EncodedPrompt) -> int:
    """The position that is patched."""
    return (subject_span(model.tokenizer, encoded)[1] if at == "subject" else len(encoded.ids)) - 1


def _aligned(
    model: HookedModel,
    batch: PromptBatch,
    others: Sequence[EncodedPrompt],
    trials: Sequence[Trial],
    layer: int,
) -> dict[str, mx.array]:
    """The other prompts' residual stream, moved to where these prompts are patched."""
    path = sites.resid_post(layer)
    held = _pass(model, others, batch.memory).cache[path]
    at = batch.condition["at"]
    rows = [
        mx.roll(held[row], _place(model, at, trial.encoded) - _place(model, at, other), 0)
        for row, (trial, other) in enumerate(zip(trials, others, strict=True))
    ]
    return {path: mx.stack(rows)}


def _scores(logits: mx.array, answers: mx.array) -> dict[str, list[float]]:
    return {
        "answer_rank": numbers(answer_rank(logits, answers)),
        "answer_probability": numbers(mx.exp(answer_logprob(logits, answers))),
    }
