"""The depth at which three kinds of answers become known, on one axis from 0 to 100 %."""

from typing import Any

import pandas as pd

from mlux import charts, compare

RUNS: list[dict[str, Any]] = [
    {"prompts": "facts"},
    {"prompts": "few_shot"},
    {"prompts": "two_hop"},
]


def draw(runs: list[Any], db: str) -> Any:
    """The mean probability of the answer by depth, a line for each prompt set."""
    frames = [
        compare.layer_results([run], metric="answer_probability", db=db).assign(
            condition=options["prompts"]
        )
        for run, options in zip(runs, RUNS, strict=True)
    ]
    frame = pd.concat(frames, ignore_index=True)
    frame["run"] = "one"
    return charts.layer_profile(
        frame,
        title="When answers are known, by relative depth",
        label="probability of the answer",
        relative=True,
    )
