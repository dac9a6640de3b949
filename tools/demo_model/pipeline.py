"""Train, export, evaluate, and write the card and the prompt sets."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tools.demo_model.card import Training, write_card
from tools.demo_model.evaluate import Figure, evaluate
from tools.demo_model.export import export
from tools.demo_model.network import Shape
from tools.demo_model.prompt_sets import write_prompt_sets
from tools.demo_model.tokenizer import vocabulary
from tools.demo_model.train import TrainingConfig, train
from tools.demo_model.world import load_world


@dataclass(frozen=True, kw_only=True)
class Job:
    """One making of the model: from what, and where to."""

    output: Path
    config: TrainingConfig
    world_seed: int
    hardware: str
    force: bool = False


def make(job: Job) -> bool:
    """Do it all; False if a figure misses what it has to reach.

    The model in `job.output` is replaced only by one that reaches every bound, unless forced.
    """
    world = load_world(job.world_seed)
    words = vocabulary(world)
    shape = Shape(d_vocab=len(words))
    started = time.monotonic()
    params, losses = train(world, words, shape, job.config)
    training = Training(
        config=job.config,
        world_seed=job.world_seed,
        minutes=(time.monotonic() - started) / 60,
        hardware=job.hardware,
        final_loss=sum(losses[-50:]) / len(losses[-50:]),
    )
    with tempfile.TemporaryDirectory() as scratch:
        export(params, words, shape, Path(scratch))
        figures = evaluate(world, Path(scratch))
    reached = report(figures)
    if reached or job.force:
        export(params, words, shape, job.output / "model")
        write_prompt_sets(world, job.output / "prompts")
        write_card(job.output / "MODEL_CARD.md", world, shape, training, figures)
    return reached


def report(figures: list[Figure]) -> bool:
    """Print every figure; whether all of them reach their bounds."""
    for figure in figures:
        print(f"{'ok  ' if figure.reached else 'MISS'} {figure.value:8.3f}  {figure.task}")
    return all(figure.reached for figure in figures)
