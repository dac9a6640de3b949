"""Nothing is lost: not by SIGKILL at any moment, not by writing at once."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
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


def start(db: Path, uid: str, number: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(WORKING), str(db), uid, str(number)],
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


def test_a_run_killed_at_any_moment_resumes_to_the_same_rows(db: Path) -> None:
    wanted = undisturbed(db)
    assert len(wanted) > 24 * 20
    moments = random.Random(0)
    seen_pending: set[int] = set()
    for _ in range(20):
        with Store.open(db, write=True) as store:
            uid = create_run(store, make_spec(n_prompts=N_PROMPTS))
        process = start(db, uid, 0.002)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(moments.uniform(0, 0.09))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert_sound(db)

        with Store.open(db, write=True) as store:
            run = load_run(store, uid)
            seen_pending.add(len(run.pending))
            if process.returncode == 0:
                assert run.status == "done"
                continue
            assert run.status in ("crashed", "done")
            # A batch is two trials, so it is there or not: never one of the two.
            assert len(run.pending) % 2 == 0
            done = set(range(N_PROMPTS)) - set(run.pending)
            assert {row[1] for row in results(db, uid) if row[0] == "text"} == done
            if run.status == "crashed":
                work(store, uid, run.pending, batch=2)
        assert results(db, uid) == wanted
    assert_sound(db)
    # The moments did hit the middle of the work.
    assert len(seen_pending - {0, N_PROMPTS}) >= 3


def test_a_database_killed_while_it_is_made_is_made_again(db: Path) -> None:
    for wait in (0.25, 0.3, 0.35, 0.4, 0.45, 0.5):
        process = start(db, "new", 1)
        time.sleep(wait)
        process.kill()
        process.communicate()
    with Store.open(db, write=True) as store:
        uid = create_run(store, make_spec())
        work(store, uid, range(4))
        assert load_run(store, uid).status == "done"
    assert_sound(db)


def test_writers_at_once_lose_nothing(db: Path) -> None:
    processes = [start(db, "new", 5) for _ in range(4)]
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
        first = start(db, uid, 0.2)
        assert first.stdout is not None
        assert first.stdout.readline() == "started\n"
        with pytest.raises(Exception, match=f"Process {first.pid} on .* is working on run {uid}"):
            work(store, uid, range(2))
        assert load_run(store, uid).status == "running"
        first.kill()
        first.communicate()
        assert load_run(store, uid).status == "crashed"
        RunWriter(store, uid, str)  # may be taken up now
