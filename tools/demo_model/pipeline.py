"""Train, prune, export, evaluate, and write the card and the prompt sets."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tools.demo_model.card import Training, write_card
from tools.demo_model.evaluate import Figure, evaluate
from tools.demo_model.export import export
from tools.demo_model.network import Params, Shape
from tools.demo_model.prompt_sets import write_prompt_sets, write_tasks
from tools.demo_model.pruning import redundant_heads, silence
from tools.demo_model.tokenizer import vocabulary
from tools.demo_model.train import TrainingConfig, train
from tools.demo_model.world import World, load_world


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
    params, _ = train(world, words, shape, job.config)
    training = Training(
        config=job.config,
        world_seed=job.world_seed,
        minutes=(time.monotonic() - started) / 60,
        hardware=job.hardware,
        silenced=redundant_heads(params, world, words, shape),
    )
    return finish(job, world, words, shape, silence(params, training.silenced, shape), training)


def finish(
    job: Job, world: World, words: list[str], shape: Shape, params: Params, training: Training
) -> bool:
    """Measure final weights, and write them with their card if they are good enough."""
    with tempfile.TemporaryDirectory() as scratch:
        export(params, words, shape, Path(scratch))
        figures = evaluate(world, Path(scratch))
    reached = report(figures)
    if reached or job.force:
        export(params, words, shape, job.output / "model")
        write_prompt_sets(world, job.output / "prompts")
        write_tasks(world, job.output / "tasks.json")
        write_card(job.output / "MODEL_CARD.md", world, shape, training, figures)
    return reached


def report(figures: list[Figure]) -> bool:
    """Print every figure; whether all of them reach their bounds."""
    for figure in figures:
        print(f"{'ok  ' if figure.reached else 'MISS'} {figure.value:8.3f}  {figure.task}")
    return all(figure.reached for figure in figures)
