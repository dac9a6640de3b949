"""Runs experiments on the built-in model and draws the figures of docs/experiments.

    python -m tools.figures [EXPERIMENT…]

A module `tools/figures/EXPERIMENT.py` has `RUNS`, the arguments of `run_experiment` for each run
that the figure needs, and `draw(runs, db)`, which returns an Altair chart of what they found. The
PNG goes to docs/images/experiments/EXPERIMENT.png.
"""

import sys
import tempfile
from importlib import import_module
from pathlib import Path

from mlux import run_experiment

import vl_convert  # isort: skip

HERE = Path(__file__).parent
IMAGES = HERE.parent.parent / "docs" / "images" / "experiments"


def draw(name: str) -> Path:
    """Runs what the figure of an experiment needs and writes it; its path."""
    module = import_module(f"tools.figures.{name}")
    with tempfile.TemporaryDirectory() as folder:
        db = str(Path(folder) / "figures.db")
        runs = [run_experiment(name, model="demo", db=db, **options) for options in module.RUNS]
        chart = module.draw(runs, db)
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / f"{name}.png"
    path.write_bytes(vl_convert.vegalite_to_png(chart.to_json(), scale=2))
    return path


def main() -> None:
    """Draws the figures that are named, or all."""
    known = sorted(path.stem for path in HERE.glob("[!_]*.py"))
    for name in sys.argv[1:] or known:
        print(draw(name))


if __name__ == "__main__":
    main()
