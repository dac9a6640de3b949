"""How long the notebook takes at a million and at ten million results.

    python benchmarks/store_scale.py [FOLDER]

In FOLDER (by default one that is removed again) a database of 100 runs and one of 1,000 are made,
each run of 10,240 numbers: the first run by the public writer, the others as copies of it in SQL.
Whole commands are processes of their own; the start of one that does nothing with the database,
`mlux --version`, is shown beside them. Medians of seven. Exits with 1 where a demand is missed:
`runs list` 500 ms, `compare` of two runs 900 ms, `compare.layer_results` of 204,800 numbers 1.5
times as long as a bare read through ADBC, a run's deletion 100 ms, and nothing 1.5 times as long
with ten times as many results.
"""

import shutil
import sqlite3
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from synthetic import METRICS, make_model, make_prompts, make_spec, write_run

from mlux import compare
from mlux.results import Values
from mlux.store import FinishedTrial, Store
from mlux.store.arrow import file_columns
from mlux.store.deletion import erase_runs

MLUX = str(Path(sysconfig.get_path("scripts")) / "mlux")
N_LAYERS, N_HEADS, N_TRIALS = 16, 31, 20
PER_RUN = N_LAYERS * (N_HEADS + 1) * N_TRIALS
REPEATS = 7
N_READ = 20
LIMITS = {"runs list": 500, "runs list -n 50": 500, "compare A B": 900, "delete a run": 100}


def finished(trial: int) -> FinishedTrial:
    """One number a layer, and one a head."""
    by_layer = [trial / (layer + 1.5) for layer in range(N_LAYERS)]
    by_head = [[x + head for head in range(N_HEADS)] for x in by_layer]
    return FinishedTrial(
        trial=trial,
        results=[
            Values(metric="logit_diff", values=by_layer, axes=("layer",)),
            Values(metric="head_score", values=by_head, axes=("layer", "head")),
        ],
        tokens={"clean": range(10)},
    )


def build(path: Path, n_runs: int) -> None:
    """A database of this many runs, the first by the public writer and the others copies of it."""
    with Store.open(path, write=True) as store:
        spec = make_spec(
            prompts=make_prompts(N_TRIALS), metrics=METRICS, model=make_model(n_layers=N_LAYERS)
        )
        write_run(store, spec, make=finished, batch=N_TRIALS)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    for table in ("runs", "run_params", "run_tags", "run_versions", "run_metrics", "trials"):
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        key = "id" if table == "runs" else "run_id"
        new = {key: "n.k + 1", "uid": "printf('%012x', n.k)"}
        selected = ", ".join(new.get(name, name) for name in columns)
        connection.execute(
            f"INSERT INTO {table} SELECT {selected} FROM {table}, "
            f"(WITH RECURSIVE c(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM c "
            f"WHERE k < {n_runs - 1}) SELECT k FROM c) AS n WHERE {key} = 1"
        )
    for run in range(2, n_runs + 1):
        connection.execute(
            "INSERT INTO layer_results SELECT ?, metric_id, trial, layer, head, position, "
            f"value + 0.001 * {run} * (trial - 9.5) FROM layer_results WHERE run_id = 1",
            (run,),
        )
    for statement in ("COMMIT", "PRAGMA analysis_limit = 400", "ANALYZE"):
        connection.execute(statement)
    connection.close()


def milliseconds(action: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median, after one that warms caches."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def command(*arguments: str) -> Callable[[], object]:
    """An action: a whole process."""
    return lambda: subprocess.run([MLUX, *arguments], check=True, stdout=subprocess.DEVNULL)


def measure(path: Path, n_runs: int) -> dict[str, float]:
    """What → milliseconds, or the ratio to the bare read."""
    db = ("--db", str(path))
    uids = [f"{n:012x}" for n in range(1, n_runs)]
    found = {
        "runs list": milliseconds(command(*db, "runs", "list")),
        "runs list -n 50": milliseconds(command(*db, "runs", "list", "-n", "50")),
        "compare A B": milliseconds(
            command(*db, "compare", *uids[-2:], "--metric", "logit_diff", "--by", "layer")
        ),
    }
    query = "SELECT * FROM layer_results WHERE run_id BETWEEN 2 AND 21"
    found["bare ADBC read"] = milliseconds(lambda: file_columns(path, query))
    found["layer_results"] = milliseconds(lambda: compare.layer_results(uids[:N_READ], db=path))
    times = []
    for uid in uids[N_READ : N_READ + REPEATS]:
        with Store.open(path, write=True) as store:
            start = time.perf_counter()
            erase_runs(store, [uid])
            times.append(1000 * (time.perf_counter() - start))
    found["delete a run"] = statistics.median(times)
    found["runs delete --hard"] = milliseconds(
        lambda: command(*db, "runs", "delete", "--hard", "-y", uids.pop(N_READ + REPEATS))(), 3
    )
    return found


def run(folder: Path) -> int:
    """Builds, measures, prints; 1 if a demand is missed."""
    columns = {}
    for n_runs in (100, 1000):
        path = folder / f"scale-{n_runs}.db"
        if not path.exists():
            build(path, n_runs)
        copy = folder / "measured.db"
        shutil.copy(path, copy)
        columns[n_runs] = measure(copy, n_runs)
        size = path.stat().st_size / (PER_RUN * n_runs)
        print(f"{n_runs} runs, {PER_RUN * n_runs:,} results, {size:.1f} bytes a result")
        copy.unlink()
    print(f"{'mlux --version':20} {milliseconds(command('--version')):6.0f} ms")
    print(f"{'':20} {'100 runs':>9} {'1,000 runs':>11} {'growth':>7} {'limit':>7}")
    missed = False
    for name, small in columns[100].items():
        large = columns[1000][name]
        limit = LIMITS.get(name, 1.5 * columns[1000]["bare ADBC read"])
        missed |= large > limit and name != "runs delete --hard"
        # Of a millisecond the growth is noise.
        missed |= large > 1.5 * small and large > 10
        print(f"{name:20} {small:6.0f} ms {large:8.0f} ms {large / small:7.2f} {limit:4.0f} ms")
    return int(missed)


def main() -> int:
    """Measures in the folder named, or in one that is removed again."""
    if len(sys.argv) > 1:
        return run(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
