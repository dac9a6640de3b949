"""Make the built-in model.

python -m tools.demo_model                   train, export, evaluate, card, prompt sets
python -m tools.demo_model --only evaluate   measure the shipped model again
python -m tools.demo_model --only prompts    write the prompt sets and tasks again
"""

import argparse
import sys
from pathlib import Path

DEMO_FOLDER = Path(__file__).parents[2] / "mlux" / "demo"


def main(arguments: list[str]) -> int:
    """Run the command; the exit code is 1 if a figure misses what it has to reach."""
    options = _parser().parse_args(arguments)
    # Imported here, after the arguments: the engine first, because it loads a fast BLAS for MLX.
    import mlux.engine  # noqa: F401
    from tools.demo_model import pipeline
    from tools.demo_model.evaluate import evaluate
    from tools.demo_model.optimizer import Schedule
    from tools.demo_model.prompt_sets import write_prompt_sets, write_tasks
    from tools.demo_model.train import TrainingConfig
    from tools.demo_model.world import load_world

    if options.only == "prompts":
        world = load_world(options.world_seed)
        write_prompt_sets(world, options.output / "prompts")
        write_tasks(world, options.output / "tasks.json")
        return 0
    if options.only == "evaluate":
        figures = evaluate(load_world(options.world_seed), options.output / "model")
        return 0 if pipeline.report(figures) else 1
    schedule = Schedule() if options.steps is None else Schedule(steps=options.steps)
    job = pipeline.Job(
        output=options.output,
        config=TrainingConfig(seed=options.seed, schedule=schedule),
        world_seed=options.world_seed,
        hardware=options.hardware,
        force=options.force,
    )
    return 0 if pipeline.make(job) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=("evaluate", "prompts"), help="one part, no training")
    parser.add_argument("--output", type=Path, default=DEMO_FOLDER, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="seed of weights and text")
    parser.add_argument("--world-seed", type=int, default=0, help="seed of people and hold-outs")
    parser.add_argument("--steps", type=int, help="training steps, if not the usual number")
    parser.add_argument("--force", action="store_true", help="write a model that misses a bound")
    parser.add_argument(
        "--hardware",
        default="2 cores of an AMD EPYC CPU, no GPU",
        help="what the card says it was trained on",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
