"""Logit lens: at which layer does the model know the answer?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mlux.engine import HookedModel
from mlux.engine.arrays import integers, numbers
from mlux.engine.trials import PromptBatch, Trial
from mlux.methods.lens import LensReadout, Stream
from mlux.methods.lens import logit_lens as run_lens
from mlux.metrics import ANSWER_PROBABILITY, ANSWER_RANK, KL_TO_FINAL
from mlux.registry import Cost, experiment
from mlux.results import Metric, Result, TopTokens, Values

METRICS = (
    ANSWER_RANK,
    ANSWER_PROBABILITY,
    Metric(name="entropy", unit="nats", description="Entropy of the lens's prediction."),
    KL_TO_FINAL,
)


OF_THE_ANSWER = ("answer_rank", "answer_probability")


@dataclass(frozen=True, kw_only=True)
class LogitLensConfig:
    """Options of the logit lens."""

    top_k: int = field(default=5, metadata={"help": "how many of the most probable tokens to keep"})
    positions: Literal["last", "all"] = field(
        default="last", metadata={"help": "read at the last position, or at every one"}
    )

    streams: tuple[Stream, ...] = field(
        default=("resid_post",), metadata={"help": "what to read: " + ", ".join(get_args(Stream))}
    )

    def __post_init__(self) -> None:
        if len(set(self.streams)) < len(self.streams):
            raise ValueError(f"streams names one twice: {', '.join(self.streams)}")
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; expected at least 1")


def _conditions(config: LogitLensConfig, model: Mapping[str, Any]) -> Sequence[Mapping[str, str]]:
    """The residual stream is the lens as everybody knows it, so it needs no name."""
    return [{} if stream == "resid_post" else {"stream": stream} for stream in config.streams]


def _cost(
    config: LogitLensConfig, model: Mapping[str, Any], condition: Mapping[str, str], n_tokens: int
) -> Cost:
    positions = n_tokens if config.positions == "all" else 1
    looked = model["n_layers"] * positions
    values = looked * (len(METRICS) + config.top_k)
    return Cost(forward_passes=1, unembedded=positions + looked, looked_at=looked, values=values)


@experiment(
    metrics=METRICS,
    prompts="facts",
    conditions=_conditions,
    cost=_cost,
    sites=lambda config: (*config.streams, "lens"),
    paper="nostalgebraist (2020), interpreting GPT: the logit lens",
)
def logit_lens(
    model: HookedModel, config: LogitLensConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """What the model would answer if it stopped after each block.

    Every layer's residual stream goes through the model's own head, so the last layer is the
    model's own prediction. One forward pass serves all layers. Prompts without an answer give the
    top tokens, the entropy and the distance to the final layer alone. With `streams`, what each
    attention and MLP adds is read by itself too, through the final norm with its own scale.
    """
    stream: Stream = batch.condition.get("stream", "resid_post")  # type: ignore[assignment] # ours
    positions = batch.positions(config.positions)
    places = integers(positions)
    answers = [trial.encoded.answer for trial in batch]
    readouts = run_lens(
        model,
        batch.clean,
        answers=[answer or 0 for answer in answers],
        positions=positions,
        top_k=config.top_k,
        stream=stream,
    )
    for readout in readouts:
        metrics = _by_metric(readout)
        top_ids, top_logprobs = integers(readout.top_ids), numbers(readout.top_logprobs)
        for row, trial in enumerate(batch):
            for name, values in metrics.items():
                if name in OF_THE_ANSWER and answers[row] is None:
                    continue
                yield (
                    trial,
                    Values(
                        metric=name,
                        values=[values[row]],
                        axes=("layer", "position"),
                        index={"layer": [readout.layer], "position": places[row]},
                    ),
                )
            for column, position in enumerate(places[row]):
                yield (
                    trial,
                    TopTokens(
                        token_ids=top_ids[row][column],
                        logprobs=top_logprobs[row][column],
                        layer=readout.layer,
                        position=position,
                    ),
                )


def _by_metric(readout: LensReadout) -> dict[str, Any]:
    """Metric → nested lists [batch][n_positions]."""
    return {
        "answer_rank": numbers(readout.answer_rank),
        "answer_probability": numbers(readout.answer_probability),
        "entropy": numbers(readout.entropy),
        "kl_to_final": numbers(readout.kl_to_final),
    }
