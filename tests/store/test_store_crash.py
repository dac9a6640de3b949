"""Nothing is lost: not by SIGKILL at any moment, not by writing at once."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from forking import forks, spread
from synthetic import make_spec, work

from mlux.store import RunWriter, Store, create_run, list_runs, load_run

WORKING = Path(__file__).with_name("working.py")
N_PROMPTS = 24

# What a run measured, without keys and times, which differ between two equal runs.
RESULTS = """
SELECT 'value', prompt, condition, metric, layer, head, position, value FROM results
  WHERE run = :uid
UNION ALL SELECT 'token', prompt, condition, token, layer, position, rank, probability
  FROM predictions WHERE run = :uid
UNION ALL SELECT 'id', t.trial, t.role, k.text, t.position, k.token_id, NULL, NULL
  FROM trial_tokens AS t JOIN tokens AS k ON k.id = t.token JOIN runs AS r ON r.id = t.run_id
  WHERE r.uid = :uid
UNION ALL SELECT 'text', g.trial, g.sample, g.text, g.token_ids, NULL, NULL, NULL
  FROM generations AS g JOIN runs AS r ON r.id = g.run_id WHERE r.uid = :uid
UNION ALL SELECT 'trial', t.trial, t.status, t.error, t.prompt_id, t.condition_id, NULL, NULL
  FROM trials AS t JOIN runs AS r ON r.id = t.run_id WHERE r.uid = :uid
"""


def results(db: Path, uid: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(db)) as connection:
        rows = connection.execute(RESULTS, {"uid": uid}).fetchall()
    return sorted(rows, key=repr)


def assert_sound(db: Path) -> None:
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def start(db: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(WORKING), str(db), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def undisturbed(db: Path) -> list[tuple[Any, ...]]:
    with Store.open(db, write=True) as store:
        spec = make_spec(n_prompts=N_PROMPTS)
        uid = create_run(store, spec)
        work(store, uid, range(N_PROMPTS), batch=2)
    return results(db, uid)


WORK = """
from forking import forks, spread
from synthetic import work
from mlux.store import Store

def main(db, uid, n_prompts):
    with Store.open(db, write=True) as store:
        work(store, uid, range(n_prompts), batch=2)
"""
CREATE = """
from mlux.store import Store

def main(db):
    Store.open(db, write=True).close()
"""


def test_a_run_killed_at_any_moment_resumes_to_the_same_rows(db: Path) -> None:
    wanted = undisturbed(db)
    assert len(wanted) > 24 * 20
    seen_pending: set[int] = set()

    def file_run() -> str:
        with Store.open(db, write=True) as store:
            return create_run(store, make_spec(n_prompts=N_PROMPTS))

    with forks(WORK) as process:
        for moment in spread(20, process.steps(str(db), file_run(), N_PROMPTS)):
            uid = file_run()
            process.kill(moment, str(db), uid, N_PROMPTS)
            assert_sound(db)
            with Store.open(db, write=True) as store:
                run = load_run(store, uid)
                seen_pending.add(len(run.pending))
                # A batch is two trials, so it is there or not: never one of the two.
                assert len(run.pending) % 2 == 0
                done = set(range(N_PROMPTS)) - set(run.pending)
                assert {row[1] for row in results(db, uid) if row[0] == "text"} == done
                if run.status != "done":  # it may have died on its way out
                    assert run.status in ("queued", "crashed")
                    work(store, uid, run.pending, batch=2)
            assert results(db, uid) == wanted
    assert_sound(db)
    assert len(seen_pending - {0, N_PROMPTS}) >= 8


def test_a_database_killed_while_it_is_made_is_made_again(tmp_path: Path) -> None:
    with forks(CREATE) as process:
        steps = process.steps(str(tmp_path / "whole.db"))
        for number, moment in enumerate(spread(12, steps)):
            db = tmp_path / f"{number}.db"
            process.kill(moment, str(db))
            with Store.open(db, write=True) as store:
                uid = create_run(store, make_spec())
                work(store, uid, range(4))
                assert load_run(store, uid).status == "done"
            assert_sound(db)


def test_writers_at_once_lose_nothing(db: Path) -> None:
    processes = [start(db, "new", "5") for _ in range(4)]
    for process in processes:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
    with Store.open(db) as store:
        runs = list_runs(store)
        assert len({run["run"] for run in runs}) == 20
        assert {(run["status"], run["done"]) for run in runs} == {("done", 4)}
    wanted = results(db, runs[0]["run"])
    for run in runs:
        assert results(db, run["run"]) == wanted
    assert_sound(db)


def test_a_second_process_does_not_take_a_run_that_is_worked_on(db: Path) -> None:
    with Store.open(db, write=True) as store:
        uid = create_run(store, make_spec(n_prompts=N_PROMPTS))
        first = start(db, uid)
        assert first.stdout is not None
        assert first.stdout.readline() == "started\n"
        with pytest.raises(Exception, match=f"Process {first.pid} on .* is working on run {uid}"):
            work(store, uid, range(2))
        assert load_run(store, uid).status == "running"
        first.kill()
        first.communicate()
        assert load_run(store, uid).status == "crashed"
        RunWriter(store, uid, str)  # may be taken up now
