"""SIGKILL at many moments of a run, a migration, a merge and a clean-up; 200 of each in the soak.

A moment is a step of the work, so where the kill falls does not depend on the machine. Each time
the notebook is sound, and what is done again gives what an undisturbed process gives.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forking import forks, spread
from synthetic import make_environment, make_finished, make_spec, token_text, write_run

from mlux.results import Artifact
from mlux.runner import resume, run_experiment
from mlux.store import (
    FinishedTrial,
    RunWriter,
    Store,
    artifacts,
    create_run,
    list_runs,
    soundness,
)
from mlux.store.deletion import delete_runs
from mlux.store.merge import merge

pytestmark = pytest.mark.timeout(1500)
at_length = pytest.mark.parametrize("n_kills", [pytest.param(200, marks=pytest.mark.soak)])

GOLDEN = Path(__file__).resolve().parents[1] / "store" / "golden" / "r0001.db"

RUN = """
from mlux import compare
from mlux.engine import HookedModel
from mlux.runner import run_experiment

def main(db):
    run_experiment("logit_lens", model="demo", prompts="facts:32", batch_size=2, db=db)
"""
UPGRADE = """
from mlux.store import Store
from mlux.store import schema, session

def main(db):
    Store.open(db, write=True).close()
"""
MERGE = """
from mlux.store import Store
from mlux.store.merge import merge

def main(db, other):
    with Store.open(db, write=True) as store:
        merge(store, other)
"""
COLLECT = """
from datetime import timedelta
from mlux.store import Store
from mlux.store.garbage import collect_garbage

def main(db):
    with Store.open(db, write=True) as store:
        collect_garbage(store, older_than=timedelta(0))
"""


def rows_of(db: Path) -> dict[str, list[Any]]:
    """What people see of a notebook, without its times."""
    queries = {
        "results": "SELECT run, prompt, condition, metric, layer, head, position, value",
        "predictions": "SELECT run, prompt, condition, layer, position, rank, token, probability",
    }
    with closing(sqlite3.connect(db)) as connection:
        found = {
            view: sorted(connection.execute(f"{select} FROM {view}"), key=repr)
            for view, select in queries.items()
        }
        found["trials"] = sorted(connection.execute("SELECT trial, status, error FROM trials"))
        found["tokens"] = sorted(
            connection.execute(
                "SELECT trial, role, position, text FROM trial_tokens AS t "
                "JOIN tokens ON tokens.id = t.token"
            )
        )
    return found


def without_uids(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {
        name: [row[1:] for row in found] if name in ("results", "predictions") else found
        for name, found in rows.items()
    }


def is_sound(db: Path) -> bool:
    with Store.open(db) as store:
        return soundness.check(store) == []


@pytest.mark.slow
@pytest.mark.parametrize("n_kills", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_a_run_killed_at_any_moment_resumes_to_the_same_rows(tmp_path: Path, n_kills: int) -> None:
    whole = tmp_path / "whole.db"
    done_at = []
    with forks(RUN) as process:
        steps = process.steps(str(whole))
        expected = without_uids(rows_of(whole))
        for number, moment in enumerate(spread(n_kills, steps)):
            db = tmp_path / f"{number}.db"
            process.kill(moment, str(db))
            n_done = progress(db)
            done_at.append(n_done)
            if n_done < 0:  # killed before there was a run
                run_experiment("logit_lens", model="demo", prompts="facts:32", batch_size=2, db=db)
            else:
                assert is_sound(db)
                if n_done < 32 or status(db) != "done":
                    resume("latest", db=db)
            assert is_sound(db)
            assert without_uids(rows_of(db)) == expected, f"killed after {n_done} trials"
            for file in tmp_path.glob(f"{number}.db*"):
                file.unlink()
    # Before the run was there, and all through it.
    assert len(set(done_at)) >= 10


def progress(db: Path) -> int:
    """How many trials are done; −1 if there is no run."""
    if not db.exists():
        return -1
    with Store.open(db, write=True) as store:  # it may have died before it made its tables
        runs = list_runs(store)
    return runs[0]["done"] if runs else -1


def status(db: Path) -> str:
    with Store.open(db) as store:
        found: str = list_runs(store)[0]["status"]
    return found


@at_length
def test_a_killed_upgrade_is_done_or_not_begun(tmp_path: Path, n_kills: int) -> None:
    whole = Path(shutil.copy(GOLDEN, tmp_path / "whole.db"))
    with forks(UPGRADE) as process:
        steps = process.steps(str(whole))
        expected = rows_of(whole)
        for number, moment in enumerate(spread(n_kills, steps)):
            db = Path(shutil.copy(GOLDEN, tmp_path / f"{number}.db"))
            process.kill(moment, str(db))
            with Store.open(db, write=True) as store:
                # The golden database came without the files of its artifacts.
                assert all(line.startswith("Artifact ") for line in soundness.check(store))
            assert rows_of(db) == expected
            for file in tmp_path.glob(f"{number}.db*"):
                file.unlink()


@at_length
def test_a_killed_merge_is_repeated_to_the_whole(tmp_path: Path, n_kills: int) -> None:
    ours, theirs, whole = (tmp_path / name for name in ("ours.db", "theirs.db", "whole.db"))
    for path in (ours, theirs):
        with Store.open(path, write=True) as store:
            for _ in range(6):
                write_run(store)
            with_vector(store, 1.0)
    shutil.copy(ours, whole)
    copy_artifacts(ours, whole)
    seen = set()
    with forks(MERGE) as process:
        steps = process.steps(str(whole), str(theirs))
        expected = rows_of(whole)
        for number, moment in enumerate(spread(n_kills, steps)):
            db = Path(shutil.copy(ours, tmp_path / f"{number}.db"))
            copy_artifacts(ours, db)
            process.kill(moment, str(db), str(theirs))
            assert is_sound(db)
            with Store.open(db, write=True) as store:
                seen.add(len(list_runs(store)))
                merge(store, theirs)
            assert is_sound(db)
            assert rows_of(db) == expected
            shutil.rmtree(artifact_folder(db))
            for file in tmp_path.glob(f"{number}.db*"):
                file.unlink()
    assert len(seen) > 3  # whole runs only, of several counts


def artifact_folder(db: Path) -> Path:
    with Store.open(db) as store:
        return artifacts.folder(store)


def copy_artifacts(source: Path, target: Path) -> None:
    shutil.copytree(artifact_folder(source), artifact_folder(target), dirs_exist_ok=True)


def with_vector(store: Store, number: float) -> str:
    """A run of one trial that keeps this number as an artifact."""
    uid = create_run(store, make_spec(n_prompts=1))
    writer = RunWriter(store, uid, token_text)
    writer.start(make_environment())
    vector = Artifact(name="v", kind="vectors", arrays={"v": np.full(1000, number)})
    writer.write([FinishedTrial(trial=0, results=[*make_finished(0).results, vector])])
    writer.finish("done")
    return uid


@at_length
def test_a_killed_clean_up_takes_nothing_that_is_needed(tmp_path: Path, n_kills: int) -> None:
    db = tmp_path / "mlux.db"
    kept = []
    with forks(COLLECT) as process, Store.open(db, write=True) as store:

        def discard(number: int) -> None:
            delete_runs(store, [with_vector(store, -n - 2.0 - 5 * number) for n in range(3)])

        discard(n_kills)
        for number, moment in enumerate(spread(n_kills, process.steps(str(db)))):
            kept.append(with_vector(store, float(number)))
            discard(number)
            process.kill(moment, str(db))
            assert soundness.check(store) == []
        process.steps(str(db))
        assert list_runs(store, deleted=True) == []
        assert {run["run"] for run in list_runs(store)} == set(kept)
        files = list(artifacts.folder(store).glob(f"??/*{artifacts.SUFFIX}"))
        assert len(files) == len(kept)
        assert soundness.check(store) == []
