"""Induction heads: which heads look back to what followed the current token, and copy it?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlux.engine import HookedModel
from mlux.engine.arrays import integers, numbers
from mlux.engine.batching import pad
from mlux.engine.trials import PromptBatch, Trial
from mlux.errors import ParameterError, PromptError
from mlux.methods.induction import measure_induction
from mlux.prompts import Prompt, repeated_tokens
from mlux.registry import Cost, experiment
from mlux.results import Metric, RanTokens, Result, Values

METRICS = (
    Metric(
        name="prefix_matching_score",
        unit="probability",
        better="higher",
        description="Mean attention from the second repeat to what followed the token before.",
    ),
    Metric(
        name="previous_token_score",
        unit="probability",
        better="higher",
        description="Mean attention to the token just before.",
    ),
    Metric(
        name="duplicate_token_score",
        unit="probability",
        better="higher",
        description="Mean attention from the second repeat to the same token in the first.",
    ),
    Metric(
        name="copying_score",
        unit="score",
        better="higher",
        description="Share of the head's push on the sequence's different tokens that falls on "
        "the token it attends to most, scaled to -1 … 1; the final norm's scale is held.",
    ),
    Metric(
        name="second_repeat_accuracy",
        unit="accuracy",
        better="higher",
        description="How often the next token of the second repeat is the most probable one.",
    ),
)


MOST_SEQUENCES = 10_000


@dataclass(frozen=True, kw_only=True)
class InductionHeadsConfig:
    """Options of the search for induction heads."""

    n_sequences: int = field(default=16, metadata={"help": "how many random sequences"})
    period: int = field(default=20, metadata={"help": "random tokens before they repeat"})

    controls: bool = field(
        default=True, metadata={"help": "also run the sequences with another second half"}
    )

    def __post_init__(self) -> None:
        if not 1 <= self.n_sequences <= MOST_SEQUENCES or self.period < 2:
            raise ValueError(
                f"n_sequences is {self.n_sequences} and period {self.period}; "
                f"expected 1 to {MOST_SEQUENCES}, and at least 2"
            )


def _sequences(model: HookedModel, config: InductionHeadsConfig, seed: int) -> Sequence[Prompt]:
    """Sequences of different random words of the vocabulary, each repeated once, after the BOS."""
    try:
        if config.controls:
            _other_words(model, config.period, 1, seed)
        made = repeated_tokens(
            model.tokenizer,
            period=config.period,
            n=config.n_sequences,
            seed=seed,
            vocab_size=model.config["vocab_size"],
        )
    except PromptError as error:  # no prompts were given: it is the option that does not fit
        raise ParameterError(f"induction_heads: {error}") from error
    return made.prompts


def _other_words(model: HookedModel, period: int, n: int, seed: int) -> list[tuple[int, ...]]:
    """Twice as many random words as a period, for each of n rows."""
    size = model.config["vocab_size"]
    made = repeated_tokens(model.tokenizer, period=2 * period, n=n, seed=seed, vocab_size=size)
    return [(prompt.token_ids or ())[-2 * period :] for prompt in made.prompts]


def _without_repetition(
    model: HookedModel, rows: Sequence[Sequence[int]], period: int, seed: int
) -> list[list[int]]:
    """The same first stretches, each followed by as many random words that are not in it."""
    drawn = _other_words(model, period, len(rows), seed)
    return [
        [*row[:-period], *[word for word in words if word not in set(row)][:period]]
        for row, words in zip(rows, drawn, strict=True)
    ]


def _period(batch: PromptBatch) -> int:
    """How long the stretch is that each row ends in twice, whatever token it begins with."""
    tokens = batch.clean.tokens
    period = tokens.shape[1] // 2
    repeats = bool((tokens[:, -2 * period : -period] == tokens[:, -period:]).all())
    if period < 2 or not repeats or len(set(batch.clean.lengths)) > 1:
        raise PromptError(
            "induction_heads needs prompts of equal length that end in a stretch of tokens and the "
            "same again; without --prompts it makes them."
        )
    return period


def _cost(
    config: InductionHeadsConfig,
    model: Mapping[str, Any],
    condition: Mapping[str, str],
    n_tokens: int,
) -> Cost:
    heads = model["n_layers"] * model["n_heads"]
    # Each head's layer runs with it and without it, and every position is read without it.
    return Cost(
        forward_passes=1 + model["n_heads"],
        unembedded=(1 + heads) * n_tokens,
        values=4 * heads + 1,
    )


@experiment(
    metrics=METRICS,
    prompts=_sequences,
    conditions=lambda config, model: [{}, {"control": "no_repeat"}] if config.controls else [{}],
    cost=_cost,
    sites=("pattern", "head", "attn_out", "resid_pre", "lens"),
    paper="Olsson et al. (2022), In-context Learning and Induction Heads",
)
def induction_heads(
    model: HookedModel, config: InductionHeadsConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Prefix-matching, copying, previous-token and duplicate-token score of every head.

    Measured on random tokens that are repeated once, where only induction can predict. The
    sequences are drawn from the model's own vocabulary with the run's seed. The control has other
    random words in place of the repetition: what the same places get anyway.
    """
    period = _period(batch)
    tokens = batch.clean.tokens
    if "control" in batch.condition:
        rows = _without_repetition(model, integers(tokens), period, batch.seed)
        tokens = pad(rows).tokens
        for trial, ids in zip(batch, rows, strict=True):
            yield trial, RanTokens(role="no_repeat", token_ids=ids)
    found = measure_induction(model, tokens, period=period)
    for trial, right in zip(batch, numbers(found.accuracy), strict=True):
        yield trial, Values(metric="second_repeat_accuracy", values=right)
    for scores in found.heads:
        by_metric = {
            "prefix_matching_score": numbers(scores.prefix_matching),
            "previous_token_score": numbers(scores.previous_token),
            "duplicate_token_score": numbers(scores.duplicate_token),
            "copying_score": numbers(scores.copying),
        }
        for row, trial in enumerate(batch):
            for name, values in by_metric.items():
                yield (
                    trial,
                    Values(
                        metric=name,
                        values=[values[row]],
                        axes=("layer", "head"),
                        index={"layer": [scores.layer]},
                    ),
                )
