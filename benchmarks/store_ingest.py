"""Ingest: the public writer against bare `sqlite3.executemany` into the same table.

    python benchmarks/store_ingest.py [VALUES]

Both write the same rows into the same schema with foreign keys on, in the same number of
transactions, in turns; the best of three counts. It prints values a second, their ratio, and bytes
a value.
"""

import sqlite3
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from synthetic import METRICS, make_environment, make_prompts, make_spec, token_text

from mlux.results import Values
from mlux.store import FinishedTrial, RunWriter, Store, create_run

N_LAYERS, N_HEADS = 32, 32
BATCH = 16


def finished_trials(n_trials: int) -> list[FinishedTrial]:
    """One metric over layers and heads, and two over layers, of every trial."""
    trials = []
    for trial in range(n_trials):
        by_layer = [trial / (layer + 1.5) for layer in range(N_LAYERS)]
        by_head = [[trial + layer / (head + 1.5) for head in range(N_HEADS)] for layer in by_layer]
        results = [
            Values(metric="answer_rank", values=by_layer, axes=("layer",)),
            Values(metric="logit_diff", values=by_layer, axes=("layer",)),
            Values(metric="head_score", values=by_head, axes=("layer", "head")),
        ]
        trials.append(FinishedTrial(trial=trial, results=results))
    return trials


def by_writer(path: Path, trials: list[FinishedTrial]) -> float:
    """Seconds to write the trials through `RunWriter`."""
    with Store.open(path, write=True) as store:
        spec = make_spec(prompts=make_prompts(len(trials)), metrics=METRICS)
        writer = RunWriter(store, create_run(store, spec), token_text)
        writer.start(make_environment())
        started = time.perf_counter()
        for start in range(0, len(trials), BATCH):
            writer.write(trials[start : start + BATCH])
        return time.perf_counter() - started


def by_driver(path: Path, source: Path) -> float:
    """Seconds to write the rows of `source` with nothing but the driver."""
    with sqlite3.connect(source) as other:
        rows = other.execute("SELECT * FROM layer_results ORDER BY trial, metric_id, layer, head")
        all_rows = rows.fetchall()
        n_trials = 1 + max(row[2] for row in all_rows)
    with Store.open(path, write=True) as store:
        create_run(store, make_spec(prompts=make_prompts(n_trials), metrics=METRICS))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")
    batches: dict[int, list[tuple[float, ...]]] = {}
    for row in all_rows:
        batches.setdefault(row[2] // BATCH, []).append(row)
    for batch in batches.values():
        batch.sort()
    started = time.perf_counter()
    for batch in batches.values():
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO layer_results VALUES (?, ?, ?, ?, ?, ?, ?)", batch)
        connection.execute("COMMIT")
    seconds = time.perf_counter() - started
    connection.close()
    return seconds


def main() -> None:
    """Measures and prints."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    n_values = N_LAYERS * (N_HEADS + 2)
    trials = finished_trials(max(1, wanted // n_values))
    total = len(trials) * n_values
    writer, driver = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            first, second = Path(folder) / "writer.db", Path(folder) / "driver.db"
            writer.append(by_writer(first, trials))
            driver.append(by_driver(second, first))
            size = second.stat().st_size
    print(f"values              {total:>12,}")
    print(f"mlux writer         {total / min(writer):>12,.0f} values/s")
    print(f"sqlite3.executemany {total / min(driver):>12,.0f} values/s")
    print(f"ratio               {min(driver) / min(writer):>12.0%}")
    print(f"file                {size / total:>12.1f} bytes a value")


if __name__ == "__main__":
    main()
