"""Direct logit attribution: which parts of the model write the answer into the residual stream?"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlux.engine import HookedModel
from mlux.engine.arrays import numbers
from mlux.engine.trials import PromptBatch, Trial
from mlux.methods.direct_logit_attribution import Contributions
from mlux.methods.direct_logit_attribution import direct_logit_attribution as attribute
from mlux.metrics import LOGIT_DIFF
from mlux.registry import Cost, experiment
from mlux.results import Metric, Result, Values


def _share(name: str, description: str) -> Metric:
    return Metric(name=name, unit="logits", better="higher", description=description)


METRICS = (
    LOGIT_DIFF,
    _share(
        "uncapped_logit_diff",
        "The logit difference before a final soft-cap, which all contributions add up to.",
    ),
    _share("head_contribution", "What a head writes directly towards the answer."),
    _share("mlp_contribution", "What an MLP writes directly towards the answer."),
    _share(
        "attention_rest_contribution",
        "What attention writes besides its heads: biases, or all of it where no heads are known.",
    ),
    _share("embedding_contribution", "What the embedding of the last token holds of the answer."),
    _share("bias_contribution", "The final norm's and the unembedding's biases."),
    Metric(
        name="unexplained",
        unit="logits",
        better="lower",
        description="How far the sum of all contributions is from the uncapped logit difference.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class DirectLogitAttributionConfig:
    """Options of direct logit attribution."""

    controls: tuple[Literal["random_tokens", "none"], ...] = field(
        default=("random_tokens",),
        metadata={"help": "what the shares are held against: random_tokens, or none"},
    )


def _conditions(
    config: DirectLogitAttributionConfig, model: Mapping[str, Any]
) -> Sequence[Mapping[str, str]]:
    chosen = [name for name in config.controls if name != "none"]
    return [{}, *({"control": name} for name in dict.fromkeys(chosen))]


def _pairs(batch: PromptBatch, vocab_size: int) -> list[tuple[int, int]]:
    """The answer and the wrong answer of each trial; for the control two tokens at random."""
    if "control" in batch.condition:
        generator = random.Random(batch.seed)
        drawn = [generator.sample(range(vocab_size), 2) for _ in batch]
        return [(answer, wrong) for answer, wrong in drawn]
    return [(trial.encoded.answer or 0, trial.encoded.wrong_answer or 0) for trial in batch]


def _cost(
    config: DirectLogitAttributionConfig,
    model: Mapping[str, Any],
    condition: Mapping[str, str],
    n_tokens: int,
) -> Cost:
    # The head is read three times more: at nothing, at a small stream, and for its gradient.
    return Cost(
        forward_passes=1, unembedded=5, values=model["n_layers"] * (model["n_heads"] + 2) + 5
    )


@experiment(
    metrics=METRICS,
    prompts="ioi",
    roles=("answer", "wrong_answer"),
    gate="contrast",
    conditions=_conditions,
    cost=_cost,
    sites=("sum", "norm", "lens"),
    paper="Elhage et al. (2021), A Mathematical Framework for Transformer Circuits",
)
def direct_logit_attribution(
    model: HookedModel, config: DirectLogitAttributionConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """The share of every head, MLP and the embedding in logit(answer) − logit(wrong answer).

    At the prompt's last position, with the final norm's scale held fixed, so that the shares add up
    to the logit difference. What a part does by way of later parts is theirs. The control has two
    random tokens instead of the answers: what a part writes towards nothing in particular.
    """
    pairs = _pairs(batch, model.config["vocab_size"])
    found = attribute(
        model,
        batch.clean.tokens,
        positions=batch.clean.last,
        answers=[answer for answer, _ in pairs],
        wrong_answers=[wrong for _, wrong in pairs],
    )
    for row, trial in enumerate(batch):
        for values in _values(found, row):
            yield trial, values


def _values(found: Contributions, row: int) -> Iterator[Values]:
    scalars = {
        "logit_diff": found.logit_diff,
        "uncapped_logit_diff": found.uncapped,
        "embedding_contribution": found.embedding,
        "bias_contribution": found.bias,
        "unexplained": found.unexplained,
    }
    for name, values in scalars.items():
        yield Values(metric=name, values=numbers(values[row]))
    by_layer = {
        "mlp_contribution": found.mlps,
        "attention_rest_contribution": found.attention_rest,
    }
    for name, layers in by_layer.items():
        yield Values(
            metric=name,
            values=[numbers(values[row]) for values in layers.values()],
            axes=("layer",),
            index={"layer": list(layers)},
        )
    for layer, of_heads in found.heads.items():
        yield Values(
            metric="head_contribution",
            values=[numbers(of_heads[row])],
            axes=("layer", "head"),
            index={"layer": [layer]},
        )
