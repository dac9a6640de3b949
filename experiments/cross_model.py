"""Cross-model: at which relative depth do models of different size know the answer?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlux.engine import HookedModel
from mlux.engine.arrays import integers, numbers
from mlux.engine.trials import PromptBatch, Trial
from mlux.methods.lens import depth_lens
from mlux.metrics import ACCURACY, ANSWER_PROBABILITY, ANSWER_RANK, KL_TO_FINAL
from mlux.registry import Cost, experiment
from mlux.results import Metric, Result, Values

METRICS = (
    ANSWER_PROBABILITY,
    ANSWER_RANK,
    KL_TO_FINAL,
    ACCURACY,
    Metric(
        name="answer_depth",
        unit="share",
        better="lower",
        description="Relative depth from which on the answer is on top; of right answers only.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class CrossModelConfig:
    """Options of the comparison by relative depth."""

    steps: int = field(
        default=10, metadata={"help": "into how many equal parts the depth is divided"}
    )

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 100 or 100 % self.steps:
            raise ValueError(f"steps is {self.steps}; expected a divisor of 100, such as 10 or 20")

    @property
    def percents(self) -> range:
        """The depths that are stored, in percent."""
        return range(0, 101, 100 // self.steps)


def blocks_at(percent: int, n_layers: int) -> int:
    """How many blocks a model of so many has passed at a relative depth.

    Example:
        >>> [blocks_at(percent, 6) for percent in (0, 10, 50, 99, 100)]
        [0, 0, 3, 5, 6]
    """
    return percent * n_layers // 100


def _cost(
    config: CrossModelConfig, model: Mapping[str, Any], condition: Mapping[str, str], n_tokens: int
) -> Cost:
    looked = model["n_layers"] + 1
    return Cost(
        forward_passes=1,
        unembedded=1 + looked,
        looked_at=looked,
        values=3 * len(config.percents) + 2,
    )


@experiment(
    metrics=METRICS,
    prompts="facts",
    roles=("answer",),
    conditions=lambda config, model: [{"layer_axis": "depth in percent"}],
    cost=_cost,
    sites=("resid_post", "lens"),
    paper="nostalgebraist (2020), the logit lens, by relative depth",
)
def cross_model(
    model: HookedModel, config: CrossModelConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """The logit lens by relative depth, so that models of different size line up.

    `layer` in the results is the depth in percent: 0 is the embedding, 100 the model's own
    prediction, and p what the lens shows once p % of the blocks are passed, rounded down. Run it on
    several models and compare the runs side by side.
    """
    n_layers = len(model.layers)
    answers = [trial.encoded.answer or 0 for trial in batch]
    readouts = list(
        depth_lens(model, batch.clean, answers=answers, positions=batch.positions("last"))
    )
    ranks = [integers(readout.answer_rank) for readout in readouts]
    by_metric = {
        "answer_rank": ranks,
        "answer_probability": [numbers(readout.answer_probability) for readout in readouts],
        "kl_to_final": [numbers(readout.kl_to_final) for readout in readouts],
    }
    for row, trial in enumerate(batch):
        for name, values in by_metric.items():
            chosen = [values[blocks_at(percent, n_layers)][row][0] for percent in config.percents]
            index = {"layer": list(config.percents)}
            yield trial, Values(metric=name, values=chosen, axes=("layer",), index=index)  # type: ignore[arg-type] # the axis's name
        depth = settled([of_depth[row][0] for of_depth in ranks])
        yield trial, Values(metric="accuracy", values=float(depth is not None))
        if depth is not None:
            yield trial, Values(metric="answer_depth", values=depth / n_layers)


def settled(ranks: list[int]) -> int | None:
    """After how many blocks the answer is on top and stays there; None if it is not at the end.

    Example:
        >>> settled([9, 0, 3, 0, 0]), settled([0, 1])
        (3, None)
    """
    if ranks[-1] != 0:
        return None
    below = [place for place, rank in enumerate(ranks) if rank != 0]
    return below[-1] + 1 if below else 0
