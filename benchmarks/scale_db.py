"""A notebook of a thousand runs and ten million results, for the benchmarks of scale.

    python benchmarks/scale_db.py PATH [RUNS]

Each run has 20 prompts under four conditions (two strengths, each with a control) and 10,000
numbers: one metric by layer, one by layer and head, one by position; beside them the two most
probable tokens of each layer, and a text a trial. The runs are filed through the
public writer; their numbers are made up by SQL, because this measures reading. A path that exists
is kept.
"""

import sqlite3
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from synthetic import make_environment, make_model, make_prompts, make_spec, token_text

from mlux.results import Metric
from mlux.store import FinishedTrial, RunWriter, Store, create_run

N_LAYERS, N_HEADS, N_POSITIONS, N_PROMPTS = 12, 8, 17, 20
METRICS = (
    Metric(name="logit_diff", unit="logits", description="Answer minus wrong one", better="higher"),
    Metric(name="head_score", unit="", description="A score of each head", better="higher"),
    Metric(name="position_effect", unit="", description="An effect by position", better="higher"),
)
CONDITIONS = tuple(
    {"alpha": alpha, **control} for alpha in ("1", "2") for control in ({}, {"control": "random"})
)
VALUES_PER_RUN = N_PROMPTS * len(CONDITIONS) * (N_LAYERS * (1 + N_HEADS) + N_POSITIONS)

# A hash of the place in 0..1, plus what the run, layer and head are made to differ by.
_VALUE = """
((r.id * 7919 + t.trial * 104729 + l.i * 1299709 + h.i * 15485863 + p.i * 32452843
  + m.metric_id * 49979687) * 2654435761 % 1000003) / 1000003.0
  + 0.01 * (r.id % 7) * l.i + 0.02 * h.i
"""
_INSERT = f"""
INSERT INTO layer_results (run_id, metric_id, trial, layer, head, position, value)
SELECT r.id, m.metric_id, t.trial, l.i, h.i, p.i, {_VALUE}
FROM runs AS r
JOIN run_metrics AS m ON m.run_id = r.id JOIN metrics AS k ON k.id = m.metric_id
JOIN trials AS t ON t.run_id = r.id
JOIN numbers AS l
  ON l.i BETWEEN 0 AND CASE k.name WHEN 'position_effect' THEN 0 ELSE {N_LAYERS - 1} END
JOIN numbers AS h
  ON CASE k.name WHEN 'head_score' THEN h.i BETWEEN 0 AND {N_HEADS - 1} ELSE h.i = -1 END
JOIN numbers AS p ON CASE k.name WHEN 'position_effect' THEN p.i BETWEEN 0 AND {N_POSITIONS - 1}
  ELSE p.i = -1 END
WHERE r.id = ?
ORDER BY r.id, m.metric_id, t.trial, l.i, h.i, p.i
"""
_PREDICTIONS = f"""
INSERT INTO token_predictions (run_id, trial, layer, position, rank, token, logprob)
SELECT t.run_id, t.trial, l.i, 16, k.i, 1 + (t.trial + l.i + k.i) % {N_POSITIONS}, -1.0 - k.i
FROM trials AS t JOIN numbers AS l ON l.i BETWEEN 0 AND {N_LAYERS - 1}
JOIN numbers AS k ON k.i BETWEEN 0 AND 1
WHERE t.run_id = ?
"""
_GENERATIONS = """
INSERT INTO generations (run_id, trial, sample, text, token_ids)
SELECT run_id, trial, 0, 'a text that the model continued, number ' || trial, '1 2 3'
FROM trials WHERE run_id = ?
"""


def build(path: Path, n_runs: int = 1000) -> None:
    """Makes the notebook at a path where none is; about a minute for a thousand runs."""
    models = [
        make_model(name, n_layers=N_LAYERS, n_heads=N_HEADS, weights_hash=digit * 64)
        for name, digit in (("small", "1"), ("medium", "2"), ("large", "3"))
    ]
    tokens = {"clean": list(range(N_POSITIONS))}
    with Store.open(path, write=True) as store:
        for number in range(n_runs):
            spec = make_spec(
                prompts=make_prompts(N_PROMPTS),
                conditions=CONDITIONS,
                metrics=METRICS,
                model=models[number // 100 % 3],
                seed=number,
                params={"top_k": 5, "scale": number // 100},
                tags={"group": str(number // 100)},
            )
            uid = create_run(store, replace(spec, experiment="scale"))
            writer = RunWriter(store, uid, token_text)
            writer.start(make_environment())
            writer.write(
                [FinishedTrial(trial=i, results=[], tokens=tokens) for i in range(len(spec.trials))]
            )
            writer.finish("done", seconds=1.0)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TEMP TABLE numbers (i INTEGER PRIMARY KEY)")
    connection.executemany("INSERT INTO numbers VALUES (?)", [(i,) for i in range(-1, 64)])
    connection.execute("BEGIN IMMEDIATE")
    for (key,) in connection.execute("SELECT id FROM runs ORDER BY id").fetchall():
        connection.execute(_INSERT, (key,))
        connection.execute(_PREDICTIONS, (key,))
        connection.execute(_GENERATIONS, (key,))
    connection.execute("COMMIT")
    connection.execute("PRAGMA analysis_limit = 1000")
    connection.execute("ANALYZE")
    connection.close()


def ensure(path: Path, n_runs: int = 1000) -> Path:
    """The path, after making the notebook there if it is missing."""
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        for left in unfinished.parent.glob(f"{unfinished.name}*"):
            left.unlink()
        build(unfinished, n_runs)
        unfinished.rename(path)
    return path


if __name__ == "__main__":
    started = time.perf_counter()
    made = ensure(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
    print(f"{made}: {made.stat().st_size / 1e6:,.0f} MB, {time.perf_counter() - started:.0f} s")
