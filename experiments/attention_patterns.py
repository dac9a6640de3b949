"""Attention patterns: what does every head look at?"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlux.engine import HookedModel
from mlux.engine.arrays import numbers
from mlux.engine.batching import pad
from mlux.engine.trials import PromptBatch, Trial
from mlux.methods.attention_scores import AttentionScores, attention_scores
from mlux.registry import Cost, experiment
from mlux.results import Artifact, Metric, RanTokens, Result, Values


def _share(name: str, description: str) -> Metric:
    return Metric(name=name, unit="probability", description=description)


METRICS = (
    Metric(name="attention_entropy", unit="nats", description="Entropy of the attention weights."),
    Metric(
        name="attention_distance",
        unit="tokens",
        description="Mean distance back to the token attended to.",
    ),
    _share("bos_attention", "Attention to the first token, the BOS token where there is one."),
    _share("previous_token_attention", "Attention to the token just before."),
    _share("repeated_token_attention", "Attention to earlier occurrences of the current token."),
    _share("successor_attention", "Attention to what followed earlier occurrences of the token."),
)


@dataclass(frozen=True, kw_only=True)
class AttentionPatternsConfig:
    """Options of attention patterns."""

    store_patterns: bool = field(
        default=False, metadata={"help": "keep every pattern as an artifact of its trial"}
    )
    shuffled: bool = field(
        default=True, metadata={"help": "also run each prompt's tokens in random order"}
    )


def _conditions(
    config: AttentionPatternsConfig, model: Mapping[str, Any]
) -> Sequence[Mapping[str, str]]:
    return [{}, {"control": "shuffled"}] if config.shuffled else [{}]


def _cost(
    config: AttentionPatternsConfig,
    model: Mapping[str, Any],
    condition: Mapping[str, str],
    n_tokens: int,
) -> Cost:
    return Cost(
        forward_passes=1, unembedded=0, values=len(METRICS) * model["n_layers"] * model["n_heads"]
    )


@experiment(
    metrics=METRICS,
    prompts="induction",
    conditions=_conditions,
    cost=_cost,
    sites=("pattern",),
    paper="Vig & Belinkov (2019); Elhage et al. (2021); Olsson et al. (2022)",
)
def attention_patterns(
    model: HookedModel, config: AttentionPatternsConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Entropy, reach, and attention to BOS, previous, repeated tokens and their successors.

    Averages over each prompt's positions from the second token on; the last two over the positions
    whose token occurred before, and not stored for prompts without any. The control is the same
    tokens in random order after the first: what a head still does there does not depend on what
    the text says.
    """
    rows = [list(trial.encoded.ids) for trial in batch]
    if "control" in batch.condition:
        generator = random.Random(batch.seed)
        rows = [[ids[0], *generator.sample(ids[1:], len(ids) - 1)] for ids in rows]
        for trial, ids in zip(batch, rows, strict=True):
            yield trial, RanTokens(role="shuffled", token_ids=ids)
    kept: list[dict[str, Any]] = [{} for _ in rows]
    tokens = pad(rows).tokens
    for scores in attention_scores(model, tokens, patterns=config.store_patterns):
        for name, values in _by_metric(scores).items():
            for row, trial in enumerate(batch):
                if values[row][0] == values[row][0]:  # not a number where no token is repeated
                    yield trial, _of_layer(name, scores.layer, values[row])
        for row, arrays in enumerate(kept):
            if scores.pattern is not None:
                arrays[f"layer.{scores.layer}"] = scores.pattern[row]
    if config.store_patterns:
        for trial, arrays in zip(batch, kept, strict=True):
            axes = {"axes": "head, query, key"}
            yield trial, Artifact(name="patterns", kind="patterns", arrays=arrays, metadata=axes)


def _of_layer(metric: str, layer: int, heads: Sequence[float]) -> Values:
    return Values(metric=metric, values=[heads], axes=("layer", "head"), index={"layer": [layer]})


def _by_metric(scores: AttentionScores) -> dict[str, Any]:
    """Metric → nested lists [batch][n_heads]."""
    return {
        "attention_entropy": numbers(scores.entropy),
        "attention_distance": numbers(scores.distance),
        "bos_attention": numbers(scores.first_token),
        "previous_token_attention": numbers(scores.previous_token),
        "repeated_token_attention": numbers(scores.repeated_token),
        "successor_attention": numbers(scores.successor),
    }
