"""Long trials of the notebook: many processes at once, and many kills."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from synthetic import make_environment, make_finished, make_spec, token_text

from mlux.results import Artifact
from mlux.store import (
    FinishedTrial,
    RunWriter,
    Store,
    artifacts,
    create_run,
    info,
    list_runs,
    soundness,
)
from mlux.store.deletion import delete_runs

pytestmark = pytest.mark.soak

HERE = Path(__file__).parent
N_PROCESSES, N_RUNS = 16, 50

UPGRADE = "import sys; from mlux.store import Store; Store.open(sys.argv[1], write=True).close()"
COLLECT = """
import sys
from datetime import timedelta
from mlux.store import Store
from mlux.store.garbage import collect_garbage
with Store.open(sys.argv[1], write=True) as store:
    print("open", flush=True)
    collect_garbage(store, older_than=timedelta(0))
"""


def test_sixteen_processes_write_fifty_runs_each(location: str) -> None:
    command = [sys.executable, str(HERE / "working.py"), location, "new", str(N_RUNS)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(N_PROCESSES)]
    assert {process.communicate()[1] for process in started} == {b""}
    assert {process.returncode for process in started} == {0}
    with Store.open(location) as store:
        runs = list_runs(store)
        assert len({run["run"] for run in runs}) == len(runs) == N_PROCESSES * N_RUNS
        assert {(run["status"], run["done"], run["failed"]) for run in runs} == {("done", 4, 0)}
        numbers = sum(
            len(list(result.rows()))
            for trial in range(4)
            for result in make_finished(trial).results
            if hasattr(result, "rows")
        )
        assert info(store)["rows"]["layer_results"] == len(runs) * numbers
        assert soundness.check(store) == []


def test_a_killed_upgrade_is_done_or_not_begun(tmp_path: Path) -> None:
    moments, seen = random.Random(1), set()
    for number in range(60):
        db = Path(shutil.copy(HERE / "golden" / "r0001.db", tmp_path / f"{number}.db"))
        process = subprocess.Popen([sys.executable, "-c", UPGRADE, str(db)])
        time.sleep(moments.uniform(0.1, 1.2))
        process.kill()
        process.wait()
        seen.add(process.returncode)
        with Store.open(db, write=True) as store:
            assert len(list_runs(store)) == 4
            # The golden database came without the files of its artifacts.
            assert all(line.startswith("Artifact ") for line in soundness.check(store))
    assert -9 in seen


def with_vector(store: Store, number: float) -> str:
    """A run of one trial that keeps this number as an artifact."""
    uid = create_run(store, make_spec(n_prompts=1))
    writer = RunWriter(store, uid, token_text)
    writer.start(make_environment())
    vector = Artifact(name="v", kind="vectors", arrays={"v": np.full(1000, number)})
    writer.write([FinishedTrial(trial=0, results=[*make_finished(0).results, vector])])
    writer.finish("done")
    return uid


def test_a_killed_clean_up_takes_nothing_that_is_needed(db: Path) -> None:
    moments = random.Random(2)
    kept = []
    with Store.open(db, write=True) as store:
        for round_ in range(60):
            kept.append(with_vector(store, round_))
            delete_runs(store, [with_vector(store, -n - 20 * round_) for n in range(10)])
            process = subprocess.Popen(
                [sys.executable, "-c", COLLECT, str(db)], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            time.sleep(moments.uniform(0, 0.06))
            process.kill()
            process.communicate()
            assert soundness.check(store) == []
        subprocess.run([sys.executable, "-c", COLLECT, str(db)], check=True)
        assert list_runs(store, deleted=True) == []
        assert {run["run"] for run in list_runs(store)} == set(kept)
        files = list(artifacts.folder(store).glob(f"??/*{artifacts.SUFFIX}"))
        assert len(files) == len(kept)
        assert soundness.check(store) == []
