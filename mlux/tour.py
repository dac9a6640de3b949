"""The main job, end to end: what `mlux demo` runs and what it found.

Three experiments on the built-in model and on its 4-bit twin, stored like any other run; then four
questions to the database, each with the command that asks it again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from mlux.runner import Run, run_experiment
from mlux.store import Store, query

MODELS = ("demo", "demo-4bit")
JOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("logit_lens", {"prompts": "facts"}),
    ("induction_heads", {"params": {"controls": False}}),
    (
        "activation_patching",
        {
            "prompts": "ioi:4",
            "params": {"sites": ("resid_pre", "head"), "controls": False, "top_heads": 0},
        },
    ),
)

FIRST_LAYER = """\
SELECT model, layer, count(*) AS prompts FROM (
  SELECT model, prompt, min(layer) AS layer
  FROM results
  WHERE metric = 'answer_rank' AND value = 0 AND run IN ({runs})
  GROUP BY model, prompt)
GROUP BY model, layer"""

INDUCTION_HEADS = """\
SELECT layer, head, avg(value) AS prefix_matching_score
FROM results WHERE metric = 'prefix_matching_score' AND run = {run}
GROUP BY layer, head ORDER BY 3 DESC LIMIT 3"""

PATCHED_HEADS = """\
SELECT layer, head, avg(value) AS patching_effect
FROM results
WHERE metric = 'patching_effect' AND condition = 'site=head' AND run = {run}
GROUP BY layer, head ORDER BY 3 DESC LIMIT 4"""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An answer from the database.

    Attributes:
        question: What was asked.
        columns: The table's columns.
        rows: The table's rows.
        command: How to ask it again.
    """

    question: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    command: str


def run_jobs(location: str, *, progress: bool) -> Iterator[Run]:
    """Runs every job on every model and stores the results."""
    for model, (experiment, options) in product(MODELS, JOBS):
        yield run_experiment(
            experiment,
            model=model,
            tags={"tour": "demo"},
            db=location,
            progress=progress,
            **options,
        )


def findings(location: str, runs: Sequence[Run]) -> Iterator[Finding]:
    """What these runs show."""
    full, quantised = (run.uid for run in runs if run.experiment == "logit_lens")
    uids = {(run.experiment, run.model): f"'{run.uid}'" for run in runs}
    induction = INDUCTION_HEADS.format(run=uids["induction_heads", "demo"])
    patched = PATCHED_HEADS.format(run=uids["activation_patching", "demo"])
    first = FIRST_LAYER.format(runs=f"'{full}', '{quantised}'")
    with Store.open(location) as store:
        yield _ask(store, "At which layer is the right answer first on top?", first)
        yield _ask(store, "Which heads are induction heads?", induction)
        yield _ask(store, "Which heads carry the answer to “… gave a drink to”?", patched)
    yield _difference(location, full, quantised)


def _ask(store: Store, question: str, sql: str) -> Finding:
    columns, rows = query(store, sql)
    command = f'mlux sql "{sql}"'
    return Finding(question=question, columns=columns, rows=rows, command=command)


def _difference(location: str, full: str, quantised: str) -> Finding:
    from mlux import compare  # pandas and SciPy, which the runs above do without

    metric = "answer_probability"
    table = compare.diff(full, quantised, metric=metric, across_quantization=True, db=location)
    columns = ["layer", "n", "mean_a", "mean_b", "estimate", "low", "high", "q"]
    return Finding(
        question="What do 4 bits a weight change in the answer's probability?",
        columns=columns,
        rows=table[columns].astype(object).to_numpy().tolist(),
        command=f"mlux compare {full} {quantised} --metric {metric} --across-quantization",
    )
