"""Comparing on a notebook of ten million results: seconds and peak memory of each function.

    python benchmarks/compare_scale.py [PATH]

Each function answers for two runs and for a hundred, each in a process of its own, so that its
memory is its own. Seconds are those of the call, without importing mlux; the best of three counts,
and beside it stands the time that the processor spent on it, which others on the machine do not add
to.
The notebook is made at PATH (default: the folder for temporary files) if it is missing.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scale_db import ensure

from mlux import compare
from mlux.store import Store

Call = Callable[[list[str], Store], Any]
PLACES = ["layer", "head"]
CALLS: dict[str, Call] = {
    "runs": lambda runs, db: compare.runs(db, limit=len(runs)),
    "layer_results": lambda runs, db: compare.layer_results(runs, db=db),
    "layer_results, a metric": lambda r, db: compare.layer_results(r, "logit_diff", db=db),
    "pivot": lambda runs, db: compare.pivot(runs, metric="head_score", by=PLACES, db=db),
    "diff": lambda runs, db: compare.diff(*_halves(runs), metric="head_score", by=PLACES, db=db),
    "diff, max-T": lambda runs, db: compare.diff(
        *_halves(runs), metric="head_score", by=PLACES, correction="max-t", db=db
    ),
    "diff, unpaired": lambda runs, db: compare.diff(
        *_halves(runs), metric="head_score", by=PLACES, paired=False, db=db
    ),
    "mixed": lambda runs, db: compare.mixed(*_halves(runs), metric="logit_diff", db=db),
    "pairs": lambda runs, db: compare.pairs(*_halves(runs), metric="head_score", by=PLACES, db=db),
    "profile": lambda runs, db: compare.profile(runs, metric="logit_diff", db=db),
    "heatmap": lambda runs, db: compare.heatmap(runs, metric="head_score", db=db),
    "heatmap, positions": lambda runs, db: compare.heatmap(
        runs, metric="position_effect", across="position", db=db
    ),
    "agreement": lambda runs, db: compare.agreement(runs, metric="head_score", db=db),
    "best": lambda runs, db: compare.best(runs, metric="head_score", top=3, db=db),
    "dose_response": lambda runs, db: compare.dose_response(runs, metric="logit_diff", db=db),
    "controls": lambda runs, db: compare.controls(runs, metric="head_score", by="layer", db=db),
    "params_diff": lambda runs, db: compare.params_diff(runs, db=db),
    "predictions": lambda runs, db: compare.predictions(runs, db=db),
    "generations": lambda runs, db: compare.generations(runs, db=db),
    "tokens": lambda runs, db: compare.tokens(runs, db=db),
}


def _halves(runs: list[str]) -> tuple[list[str], list[str]]:
    """The first and the second half, as replicates of each other."""
    return runs[: len(runs) // 2], runs[len(runs) // 2 :]


def measure(path: str, name: str, n_runs: int) -> dict[str, float]:
    """Seconds and peak megabytes of one function, in this process."""
    with Store.open(path) as store:
        runs = compare.runs(store, limit=n_runs)["run"].tolist()
        seconds, busy = [], []
        for _ in range(3):
            started, spent = time.perf_counter(), time.process_time()
            rows = len(CALLS[name](runs, store))
            seconds.append(time.perf_counter() - started)
            busy.append(time.process_time() - spent)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
    return {
        "best": min(seconds),
        "first": seconds[0],
        "busy": min(busy),
        "megabytes": peak,
        "rows": rows,
    }


def main() -> None:
    """Measures every function and prints a table; exits with 1 if one is too slow or too large."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir()) / "mlux_scale.db"
    with Store.open(ensure(path)) as store, store.reading() as connection:
        total = connection.exec_driver_sql("SELECT count(*) FROM layer_results").scalar()
    print(f"{total:,} results")
    print(f"{'function':<26}{'runs':>5}{'rows':>10}{'s':>7}{'CPU s':>7}{'first s':>9}{'MB':>6}")
    slow = []
    for name in CALLS:
        for n_runs, bound in ((2, 1.0), (100, 3.0)):
            command = [sys.executable, __file__, "--one", str(path), name, str(n_runs)]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found = json.loads(answer)
            line = f"{found['rows']:>10,}{found['best']:>7.2f}{found['busy']:>7.2f}"
            rest = f"{found['first']:>9.2f}{found['megabytes']:>6.0f}"
            print(f"{name:<26}{n_runs:>5}{line}{rest}", flush=True)
            if found["best"] > bound or found["megabytes"] > 500:
                slow.append(f"{name} of {n_runs}")
    print("All within 1 s for 2 runs, 3 s for 100, 500 MB." if not slow else f"Too much: {slow}")
    sys.exit(bool(slow))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main()
