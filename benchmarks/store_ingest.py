"""Ingest: the public writer against bare `sqlite3.executemany`, and against MLflow.

    python benchmarks/store_ingest.py [VALUES]

Batch by batch in turns, the writer stores trials in one database and the driver the same rows,
sorted and ready, in the same table of another, with foreign keys on and the same number of
transactions. What makes the rows for the driver is not counted; for the writer everything is. Where
MLflow is installed (the extra `bench`), its `log_batch` stores metrics by the thousand in SQLite.
Exits with 1 if the writer has less than 80 % of the driver's speed, a value takes more than 30
bytes, or MLflow is more than a thirtieth as fast.
"""

import logging
import sqlite3
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from synthetic import METRICS, make_environment, make_prompts, make_spec, token_text

from mlux.results import Values
from mlux.store import FinishedTrial, RunWriter, Store, create_run

N_LAYERS, N_HEADS = 32, 32
N_VALUES = N_LAYERS * (N_HEADS + 2)
BATCH = 16
INSERT = "INSERT INTO layer_results VALUES (?, ?, ?, ?, ?, ?, ?)"


def finished(trial: int) -> FinishedTrial:
    """One metric over layers and heads, and two over layers."""
    by_layer = [trial / (layer + 1.5) for layer in range(N_LAYERS)]
    by_head = [[trial + layer / (head + 1.5) for head in range(N_HEADS)] for layer in by_layer]
    results = [
        Values(metric="answer_rank", values=by_layer, axes=("layer",)),
        Values(metric="logit_diff", values=by_layer, axes=("layer",)),
        Values(metric="head_score", values=by_head, axes=("layer", "head")),
    ]
    return FinishedTrial(trial=trial, results=results)


def rows(batch: list[FinishedTrial], metrics: dict[str, int]) -> list[tuple[float, ...]]:
    """What the driver is given, in the order of the key."""
    return sorted(
        (1, metrics[values.metric], done.trial, *row)
        for done in batch
        for values in done.results
        if isinstance(values, Values)
        for row in values.rows()
    )


def batches(n_trials: int) -> Iterator[list[FinishedTrial]]:
    """Trials as a runner hands them over."""
    for start in range(0, n_trials, BATCH):
        yield [finished(trial) for trial in range(start, min(start + BATCH, n_trials))]


def measure(folder: Path, n_trials: int) -> dict[str, float]:
    """Seconds of the writer and the driver, bytes a value, seconds a value of MLflow."""
    first, second = folder / "writer.db", folder / "driver.db"
    spec = make_spec(prompts=make_prompts(n_trials), metrics=METRICS)
    with Store.open(second, write=True) as store:
        create_run(store, spec)
        with store.reading() as reading:
            named = reading.exec_driver_sql("SELECT name, id FROM metrics").all()
    metrics: dict[str, int] = dict(named)
    driver = sqlite3.connect(second, isolation_level=None)
    driver.executescript("PRAGMA foreign_keys = ON; PRAGMA synchronous = NORMAL")
    by_writer = by_driver = 0.0
    others = mlflow_batches(folder) if find_spec("mlflow") else iter(())
    before = list(islice(others, 10))
    with Store.open(first, write=True) as store:
        writer = RunWriter(store, create_run(store, spec), token_text)
        writer.start(make_environment())
        for batch in batches(n_trials):
            ready = rows(batch, metrics)
            start = time.perf_counter()
            writer.write(batch)
            between = time.perf_counter()
            driver.execute("BEGIN IMMEDIATE")
            driver.executemany(INSERT, ready)
            driver.execute("COMMIT")
            by_driver += time.perf_counter() - between
            by_writer += between - start
        writer.finish("done")
    driver.close()
    return {
        "writer": by_writer,
        "driver": by_driver,
        "size": first.stat().st_size / (n_trials * N_VALUES),
        "mlflow": statistics.median([*before, *others]) if before else 0.0,
    }


def mlflow_batches(folder: Path) -> Iterator[float]:
    """Seconds a value of `log_batch` with a thousand metrics, measured whenever it is asked."""
    warnings.simplefilter("ignore")
    logging.disable()
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    run = client.create_run(client.create_experiment("ingest")).info.run_id
    for first in range(0, 20_000, 1000):
        metrics = [
            Metric(key=f"m.{i % 34}", value=i / 7, timestamp=first, step=first + i)
            for i in range(1000)
        ]
        start = time.perf_counter()
        client.log_batch(run, metrics=metrics)
        yield (time.perf_counter() - start) / 1000


def main() -> int:
    """Measures and prints; 1 if a demand is missed."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    n_trials = max(1, wanted // N_VALUES)
    n_values = n_trials * N_VALUES
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), n_trials)
        writer, driver, size = found["writer"], found["driver"], found["size"]
        print(f"values              {n_values:>12,}")
        print(f"mlux writer         {n_values / writer:>12,.0f} values/s")
        print(f"sqlite3.executemany {n_values / driver:>12,.0f} values/s")
        print(f"ratio               {driver / writer:>12.0%}, at least 80%")
        print(f"file                {size:>12.1f} bytes a value, at most 30")
        missed = driver / writer < 0.8 or size > 30
        if found["mlflow"]:
            times = found["mlflow"] * n_values / writer
            print(f"MLflow log_batch    {1 / found['mlflow']:>12,.0f} values/s")
            print(f"mlux to MLflow      {times:>12.0f} times, at least 30")
            missed |= times < 30
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
