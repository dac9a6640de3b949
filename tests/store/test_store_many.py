"""Many processes write to one notebook at once: no error, nothing lost, nothing twice."""

import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import runs_of
from synthetic import make_finished, make_spec, write_run

from mlux.results import TopTokens, Values
from mlux.store import Store, info, list_runs
from mlux.store.soundness import check

WORKING = Path(__file__).with_name("working.py")


def write_at_once(location: str, processes: int, runs: int) -> None:
    """So many processes file and finish so many runs each; then everything is looked at."""
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKING), location, "new", str(runs)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    for process in started:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
    with Store.open(location, write=True) as store:
        assert check(store) == []
        listed = list_runs(store)
        assert len({run["run"] for run in listed}) == len(listed) == processes * runs
        assert {(run["status"], run["done"], run["failed"]) for run in listed} == {("done", 4, 0)}
        rows = info(store)["rows"]
        trials = len(make_spec().trials)
        made = [result for trial in range(trials) for result in make_finished(trial).results]
        values = sum(len(list(r.rows())) for r in made if isinstance(r, Values))
        tops = sum(len(r.token_ids) for r in made if isinstance(r, TopTokens))
        assert rows["layer_results"] == values * len(listed)
        assert rows["token_predictions"] == tops * len(listed)
        assert rows["generations"] == rows["trials"] == trials * len(listed)
        # What they share was filed once, whoever came first.
        for table, count in (("models", 1), ("experiments", 1), ("prompts", 4), ("metrics", 4)):
            assert rows[table] == count, table
        alone = write_run(store)
        found = runs_of(store)
        parts = ("values", "predictions", "tokens", "texts", "params", "tags", "metrics")
        for run in listed:
            for part in parts:
                assert found[run["run"]][part] == found[alone][part]


def test_a_few_processes_lose_nothing(db_location: str) -> None:
    write_at_once(db_location, 4, 5)


@pytest.mark.soak
def test_sixteen_processes_lose_nothing(db_location: str) -> None:
    write_at_once(db_location, 16, 50)
