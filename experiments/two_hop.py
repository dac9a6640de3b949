"""Two-hop questions: where does the entity between question and answer appear?"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.arrays import numbers
from mlux.engine.batching import answer_token
from mlux.engine.spans import subject_span
from mlux.engine.trials import EncodedPrompt, PromptBatch, Trial
from mlux.errors import PromptError
from mlux.methods.two_hop import entity_lens
from mlux.registry import Cost, experiment
from mlux.results import Fitted, Metric, RanTokens, Result, Values

PLACES = ("subject", "last")
ENTITIES = ("bridge", "answer")
METRICS = (
    Metric(
        name="entity_rank",
        unit="rank",
        better="lower",
        description="Tokens that the lens finds at least as probable as the entity; 0 is on top.",
    ),
    Metric(
        name="entity_probability",
        unit="probability",
        better="higher",
        description="The entity's probability by the lens.",
    ),
    Metric(
        name="best_entity_rank",
        unit="rank",
        better="lower",
        description="The entity's lowest rank over all layers.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class TwoHopConfig:
    """Two-hop questions have no options."""


def _conditions(config: TwoHopConfig, model: Mapping[str, Any]) -> Sequence[Mapping[str, str]]:
    looked_for = [{"at": at, "entity": entity} for at in PLACES for entity in ENTITIES]
    return [*looked_for, *({**what, "control": "other_prompt"} for what in looked_for)]


def _fit(
    model: HookedModel, config: TwoHopConfig, prompts: Sequence[EncodedPrompt], seed: int
) -> Fitted:
    """The tokens to look for: for each prompt its own bridge and answer, and another prompt's."""
    bridges = [bridge_token(model, encoded) for encoded in prompts]
    answers = [encoded.answer for encoded in prompts]
    state = {}
    for number, encoded in enumerate(prompts):
        generator = random.Random(f"{seed} {number}")
        own: dict[str, Any] = {"bridge": bridges[number], "answer": answers[number]}
        for entity, tokens in (("bridge", bridges), ("answer", answers)):
            others = sorted({token for token in tokens if token not in own.values()})  # type: ignore[type-var] # an answer is required
            if not others:
                raise PromptError(f"two_hop needs prompts with more than one {entity}.")
            own[f"other {entity}"] = generator.choice(others)
        state[encoded.prompt] = own
    return Fitted(state=state)


def _check(
    model: HookedModel, config: TwoHopConfig, prompts: Sequence[EncodedPrompt], seed: int
) -> None:
    _fit(model, config, prompts, seed)  # it looks tokens up and runs nothing


def bridge_token(model: HookedModel, encoded: EncodedPrompt) -> int:
    """The first token of the bridge, the prompt's label, as a word of its text."""
    bridge = replace(encoded.prompt, answer=encoded.prompt.label)
    return answer_token(model.tokenizer, bridge)


def _cost(
    config: TwoHopConfig, model: Mapping[str, Any], condition: Mapping[str, str], n_tokens: int
) -> Cost:
    layers = model["n_layers"]
    return Cost(forward_passes=1, unembedded=1 + layers, values=2 * layers + 1)


@experiment(
    metrics=METRICS,
    prompts="two_hop",
    roles=("answer", "subject", "label"),
    conditions=_conditions,
    check=_check,
    fit=_fit,
    fit_cost=lambda config, model, n_prompts, n_tokens: Cost(forward_passes=0),
    cost=_cost,
    sites=("resid_post", "lens"),
    paper="Biran et al. (2024), Hopping Too Late; Yang et al. (2024), latent multi-hop reasoning",
)
def two_hop(
    model: HookedModel, config: TwoHopConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Where the bridge of a two-hop question and its answer appear.

    The lens after every block looks for the bridge (the prompt's label) and for the answer, at the
    last token of the subject and at the last token of the prompt. The control looks for the bridge,
    or the answer, of another prompt.
    """
    at, entity = batch.condition["at"], batch.condition["entity"]
    key = f"other {entity}" if "control" in batch.condition else entity
    places = [
        subject_span(model.tokenizer, trial.encoded)[1] - 1
        if at == "subject"
        else len(trial.encoded.ids) - 1
        for trial in batch
    ]
    entities = [batch.fitted[trial.encoded.prompt][key] for trial in batch]
    readouts = list(
        entity_lens(model, batch.clean.tokens, positions=mx.array(places), entities=entities)
    )
    ranks = numbers(mx.stack([readout.rank for readout in readouts], axis=1))
    probabilities = numbers(mx.exp(mx.stack([readout.logprob for readout in readouts], axis=1)))
    for row, trial in enumerate(batch):
        yield trial, RanTokens(role="entity", token_ids=entities[row : row + 1])
        for name, values in (("entity_rank", ranks), ("entity_probability", probabilities)):
            yield trial, Values(metric=name, values=values[row], axes=("layer",))
        yield trial, Values(metric="best_entity_rank", values=min(ranks[row]))
