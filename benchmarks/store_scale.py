"""How long the notebook takes at a million and at ten million results.

    python benchmarks/store_scale.py [FOLDER]

In FOLDER (by default one that is removed again) a database of 100 runs and one of 1,000 are made,
each run of 10,240 numbers: the first run by the public writer, the others as copies of it in SQL.
Whole commands are processes of their own; what starting one costs is shown first. The two databases
take turns; medians of five, by the clock and in processor time, which is what counts on a machine
that does other things too. Exits with 1 where a demand on the clock is missed: `runs list` 500 ms,
`compare` of two runs 900 ms, `compare.layer_results` of 204,800 numbers 1.5 times as long as a bare
read through ADBC, a run's deletion 100 ms, and nothing 1.5 times as long with ten times as many
results.
"""

import resource
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
REPEATS = 5
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


def spent() -> float:
    """Seconds of processor time of this process and those that it started."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


def in_turns(actions: list[Callable[[], object]]) -> list[tuple[float, float]]:
    """Milliseconds by the clock and of the processor of each action, medians."""
    taken: list[list[tuple[float, float]]] = [[] for _ in actions]
    for _ in range(REPEATS + 1):
        for action, times in zip(actions, taken, strict=True):
            start, cpu = time.perf_counter(), spent()
            action()
            times.append((1000 * (time.perf_counter() - start), 1000 * (spent() - cpu)))
    # The first warms the caches.
    return [
        (statistics.median(t for t, _ in times[1:]), statistics.median(c for _, c in times[1:]))
        for times in taken
    ]


def command(*arguments: str) -> Callable[[], object]:
    """An action: a whole process."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return lambda: subprocess.run([MLUX, *arguments], check=True, **quiet)  # type: ignore[call-overload] # files


def actions(path: Path, n_runs: int) -> dict[str, Callable[[], object]]:
    """What is measured on a database."""
    db = ("--db", str(path))
    uids = [f"{n:012x}" for n in range(1, n_runs)]
    query = "SELECT * FROM layer_results WHERE run_id BETWEEN 2 AND 21"
    to_delete = iter(uids[N_READ:])

    def delete() -> None:
        with Store.open(path, write=True) as store:
            erase_runs(store, [next(to_delete)])

    return {
        "mlux --version": command("--version"),
        "runs list": command(*db, "runs", "list"),
        "runs list -n 50": command(*db, "runs", "list", "-n", "50"),
        "compare A B": command(
            *(*db, "compare", *uids[-2:], "--metric", "logit_diff", "--by", "layer")
        ),
        "bare ADBC read": lambda: file_columns(path, query),
        "layer_results": lambda: compare.layer_results(uids[:N_READ], db=path),
        "delete a run": delete,
    }


def run(folder: Path) -> int:
    """Builds, measures, prints; 1 if a demand is missed."""
    sides = []
    for n_runs in (100, 1000):
        path = folder / f"scale-{n_runs}.db"
        if not path.exists():
            build(path, n_runs)
        size = path.stat().st_size / (PER_RUN * n_runs)
        print(f"{n_runs} runs, {PER_RUN * n_runs:,} results, {size:.1f} bytes a result")
        copy = Path(shutil.copy(path, folder / f"measured-{n_runs}.db"))
        sides.append(actions(copy, n_runs))
    print(
        f"{'milliseconds':16} {'100 runs':>9} {'cpu':>6} {'1,000 runs':>11} {'cpu':>6} growth limit"
    )
    missed, bare = False, 0.0
    for name in sides[0]:
        (small, small_cpu), (large, large_cpu) = in_turns([side[name] for side in sides])
        bare = large if name == "bare ADBC read" else bare
        limit = 1.5 * bare if name == "layer_results" else LIMITS.get(name)
        missed |= (limit is not None and large > limit) or large > 1.5 * small
        shown = "" if limit is None else f"{limit:.0f}"
        print(
            f"{name:16} {small:9.0f} {small_cpu:6.0f} {large:11.0f} {large_cpu:6.0f} "
            f"{large / small:6.2f} {shown:>5}"
        )
    for copy in folder.glob("measured-*.db"):
        copy.unlink()
    return int(missed)


def main() -> int:
    """Measures in the folder named, or in one that is removed again."""
    if len(sys.argv) > 1:
        return run(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
