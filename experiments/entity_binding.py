"""Entity binding: what tells which attribute belongs to which entity, and after which layer?"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.arrays import numbers
from mlux.engine.batching import pad
from mlux.engine.spans import Span, subject_span, text_span
from mlux.engine.trials import PromptBatch, Trial
from mlux.errors import PromptError
from mlux.methods.baseline import require_difference
from mlux.methods.entity_binding import Binding, exchanged, find_binding
from mlux.methods.prompt_rows import prompts_in_budget, prompts_pass
from mlux.methods.scores import logit_diff, scored_logits
from mlux.metrics import CLEAN_LOGIT_DIFF, CORRUPTED_LOGIT_DIFF, LOGIT_DIFF
from mlux.registry import Cost, experiment
from mlux.results import Metric, Result, Values

Exchange = Literal["entities", "attributes", "both"]
METRICS = (
    Metric(
        name="exchange_effect",
        unit="fraction",
        description="How far the logit difference follows the exchange: 0 is the clean run, 1 the "
        "prompt with the attributes exchanged.",
    ),
    Metric(
        name="follows_exchange",
        unit="share",
        description="1 where the answer of the exchanged binding is the more probable, else 0.",
    ),
    LOGIT_DIFF,
    CLEAN_LOGIT_DIFF,
    CORRUPTED_LOGIT_DIFF,
)


@dataclass(frozen=True, kw_only=True)
class EntityBindingConfig:
    """Options of entity binding."""

    exchange: tuple[Exchange, ...] = field(
        default=("entities", "attributes", "both"),
        metadata={"help": "what changes places: entities, attributes, both"},
    )


def _conditions(
    config: EntityBindingConfig, model: Mapping[str, Any]
) -> Sequence[Mapping[str, str]]:
    exchanges = [{"exchange": what} for what in config.exchange]
    return [*exchanges, *({**what, "control": "random_positions"} for what in exchanges)]


def _cost(
    config: EntityBindingConfig,
    model: Mapping[str, Any],
    condition: Mapping[str, str],
    n_tokens: int,
) -> Cost:
    n_layers = model["n_layers"]
    return Cost(forward_passes=2 + n_layers / 2, unembedded=2 + n_layers, values=3 * n_layers + 2)


@experiment(
    metrics=METRICS,
    prompts="two_hop_in_context",
    roles=("corrupted", "answer", "wrong_answer", "subject", "label"),
    aligned=True,
    gate="pair",
    conditions=_conditions,
    cost=_cost,
    sites=("resid_pre",),
    paper="Feng & Steinhardt (2023), How do language models bind entities in context?",
)
def entity_binding(
    model: HookedModel, config: EntityBindingConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Exchanges two entities, or their attributes, between their places, layer by layer.

    The prompt introduces two entities with an attribute each and asks for one, whose attribute is
    the label; the corrupted prompt is the same with the attributes exchanged. Before the first
    block an exchange is that of the words, and the answer follows it; it stops to follow after the
    layer where the binding has been written into the vectors. Controls exchange random other
    positions of the context.
    """
    seq = len(batch.trials[0].encoded.ids)  # of all: a batch has one length
    rows = prompts_in_budget(model, len(batch), seq=seq, site="resid_pre", memory=batch.memory)
    for start in range(0, len(batch), rows):
        yield from _exchange(model, batch, batch.trials[start : start + rows])


def _exchange(
    model: HookedModel, batch: PromptBatch, trials: Sequence[Trial]
) -> Iterator[tuple[Trial, Result]]:
    answers, wrong = (
        mx.array([getattr(trial.encoded, role) for trial in trials])
        for role in ("answer", "wrong_answer")
    )
    tokens = pad([trial.encoded.ids for trial in trials]).tokens
    base = prompts_pass(model, tokens, site="resid_pre", memory=batch.memory)
    others = pad([trial.encoded.corrupted or () for trial in trials])
    spans = [_spans(model, batch, trial) for trial in trials]
    clean = numbers(logit_diff(base.logits, answers, wrong))
    corrupted = numbers(
        logit_diff(scored_logits(model, others.tokens, others.last), answers, wrong)
    )
    for row, trial in enumerate(trials):
        require_difference(clean[row], corrupted[row])
        yield trial, Values(metric="clean_logit_diff", values=clean[row])
        yield trial, Values(metric="corrupted_logit_diff", values=corrupted[row])
    for layer, logits in exchanged(model, base, spans, layers=range(len(model.layers))):
        for row, value in enumerate(numbers(logit_diff(logits, answers, wrong))):
            effect = (value - clean[row]) / (corrupted[row] - clean[row])
            for name, number in (
                ("logit_diff", value),
                ("exchange_effect", effect),
                ("follows_exchange", float(value < 0)),
            ):
                index: Any = {"layer": [layer]}
                yield (
                    trials[row],
                    Values(metric=name, values=[number], axes=("layer",), index=index),
                )


def _spans(model: HookedModel, batch: PromptBatch, trial: Trial) -> list[tuple[Span, Span]]:
    """The pairs of places that are exchanged in one prompt."""
    encoded = trial.encoded
    binding = find_binding(
        encoded.ids,
        encoded.corrupted or (),
        subject=subject_span(model.tokenizer, encoded, first=True),
        attribute=text_span(model.tokenizer, encoded.ids, encoded.prompt.label or "", first=True),
    )
    pairs = {"entities": [binding.entities], "attributes": [binding.attributes]}
    chosen = pairs.get(batch.condition["exchange"], [binding.entities, binding.attributes])
    if "control" not in batch.condition:
        return chosen
    generator = random.Random(f"{batch.seed} {trial.number}")
    free = _free_positions(binding)
    drawn = generator.sample(free, min(2 * len(chosen), len(free) // 2 * 2))
    if not drawn:
        raise PromptError(f"Only the entities and attributes are in {encoded.prompt.text!r}.")
    return [((a, a + 1), (b, b + 1)) for a, b in zip(drawn[::2], drawn[1::2], strict=True)]


def _free_positions(binding: Binding) -> list[int]:
    """The positions of the context that hold neither an entity nor an attribute."""
    spans = [*binding.entities, *binding.attributes]
    taken = {place for span in spans for place in range(*span)}
    context = range(min(taken), max(taken))
    return [place for place in context if place not in taken]
