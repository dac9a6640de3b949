"""Several processes share the trials of one run: none is done twice, none is lost."""

import gc
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import make_environment, make_finished, make_spec, token_text, work, write_run

from mlux.errors import RunError
from mlux.store import (
    FinishedTrial,
    RunWriter,
    Store,
    create_run,
    heartbeat,
    list_runs,
    liveness,
    load_run,
    rows,
)

WORKING = Path(__file__).with_name("sharing.py")


def writer_of(store: Store, uid: str) -> RunWriter:
    writer = RunWriter(store, uid, token_text)
    writer.start(make_environment())
    return writer


def joined(store: Store, uid: str, pid: int | None = None) -> RunWriter:
    writer = RunWriter(store, uid, token_text)
    environment = make_environment()
    writer.start(environment if pid is None else replace(environment, pid=pid), share=True)
    return writer


def workers(store: Store) -> list[tuple[int, bool, int]]:
    """Number, whether it works, and how many trials it has."""
    with store.reading() as connection:
        return [
            tuple(row)
            for row in connection.exec_driver_sql(
                "SELECT w.worker, w.finished_at IS NULL, (SELECT count(*) FROM trials AS t "
                "WHERE t.run_id = w.run_id AND t.worker = w.worker) "
                "FROM run_workers AS w ORDER BY 1"
            )
        ]


def test_two_workers_share_the_trials(store: Store, other: "subprocess.Popen[bytes]") -> None:
    uid = create_run(store, make_spec(n_prompts=6))
    first, second = joined(store, uid, other.pid), joined(store, uid)
    assert first.claim([0, 1, 2]) == [0, 1, 2]
    assert second.claim([0, 1, 2, 3]) == [3]
    assert first.claim([0, 1]) == [0, 1]
    with pytest.raises(RunError, match="no trial 1 that is still to be done"):
        second.write([make_finished(1)])
    first.write([make_finished(trial) for trial in range(3)])
    second.write([make_finished(3)])
    assert first.claim([2, 3]) == []
    assert second.claim([4, 5]) == [4, 5]
    first.finish("done", hook_fires=2, seconds=1.0)
    assert load_run(store, uid).status == "running"
    second.write([make_finished(4), make_finished(5)])
    second.finish("done", hook_fires=3, seconds=2.0)
    run = load_run(store, uid)
    assert (run.status, run.hook_fires, run.seconds) == ("done", 5, 3.0)
    assert workers(store) == [(0, False, 3), (1, False, 3)]


def test_what_a_dead_worker_had_claimed_is_free_again(
    store: Store, other: "subprocess.Popen[bytes]"
) -> None:
    uid = create_run(store, make_spec(n_prompts=4))
    first, second = joined(store, uid, other.pid), joined(store, uid)
    first.claim([0, 1])
    first.write([make_finished(0)])
    assert second.claim([0, 1, 2, 3]) == [2, 3]
    other.kill()
    other.wait()
    assert load_run(store, uid).status == "running"  # the second is there
    assert second.claim([0, 1, 2, 3]) == [1, 2, 3]
    second.write([make_finished(trial) for trial in (1, 2, 3)])
    second.finish("done")
    assert load_run(store, uid).status == "done"
    assert workers(store) == [(0, False, 1), (1, False, 3)]


def test_a_run_whose_workers_are_all_gone_has_crashed_and_goes_on(
    store: Store, other: "subprocess.Popen[bytes]"
) -> None:
    uid = create_run(store, make_spec(n_prompts=4))
    joined(store, uid, other.pid).claim([0, 1])
    other.kill()
    other.wait()
    assert [run["status"] for run in list_runs(store)] == ["crashed"]
    work(store, uid, range(4))  # alone, as ever
    assert load_run(store, uid).status == "done"


def test_a_worker_that_leaves_hands_the_run_over(
    store: Store, other: "subprocess.Popen[bytes]"
) -> None:
    # The first to come is still alive when the second, now alone, dies.
    uid = create_run(store, make_spec())
    first, _ = joined(store, uid), joined(store, uid, other.pid)
    first.finish("done")
    assert load_run(store, uid).environment.pid == other.pid
    liveness.at_work.pop(uid, None)
    assert load_run(store, uid).status == "running"
    other.kill()
    other.wait()
    assert load_run(store, uid).status == "crashed"


def test_the_last_worker_ends_the_run_as_all_found_it(
    store: Store, other: "subprocess.Popen[bytes]"
) -> None:
    uid = create_run(store, make_spec(n_prompts=2))
    first, second = joined(store, uid, other.pid), joined(store, uid)
    first.claim([0])
    second.claim([1])
    first.write([FinishedTrial(trial=0, results=[], error="too long")])
    first.finish("failed", error="too long")
    second.write([make_finished(1)])
    second.finish("done")
    run = load_run(store, uid)
    assert (run.status, run.error) == ("failed", "1 trials failed")


def test_who_does_not_share_is_alone(store: Store, other: "subprocess.Popen[bytes]") -> None:
    alone = create_run(store, make_spec())
    RunWriter(store, alone, token_text).start(replace(make_environment(), pid=other.pid))
    shared = create_run(store, make_spec())
    joined(store, shared, other.pid)
    with pytest.raises(RunError, match="is working on run"):
        joined(store, alone)
    with pytest.raises(RunError, match="is working on run"):
        RunWriter(store, shared, token_text).start(make_environment())


def test_processes_at_once_do_every_trial_once(store: Store, location: str) -> None:
    n = 60
    uid = create_run(store, make_spec(n_prompts=n))
    command = [sys.executable, str(WORKING), location, uid]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **pipes) for _ in range(3)]
    assert [process.stdout.readline() for process in started] == ["joined\n"] * 3
    for process in started:  # all of them before any is waited for
        process.stdin.write("go\n")
        process.stdin.flush()
    done = [int(trial) for process in started for trial in process.communicate()[0].split()]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert sorted(done) == list(range(n))
    run = load_run(store, uid)
    assert (run.status, run.counts["done"]) == ("done", n)
    assert sum(count for *_, count in workers(store)) == n


@pytest.mark.parametrize("backend", ["postgresql"])  # on SQLite one writer waits for the other
def test_runs_with_the_same_tokens_are_written_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(store)
    first, second = (writer_of(store, create_run(store, make_spec(n_prompts=1))) for _ in range(2))
    top_rows = rows.top_rows

    def meanwhile(*arguments: Any) -> Any:  # the first has filed its tokens, and not yet committed
        monkeypatch.undo()
        second.write([make_finished(0)])
        return top_rows(*arguments)

    monkeypatch.setattr("mlux.store.writer.rows.top_rows", meanwhile)
    first.write([make_finished(0)])
    for writer in (first, second):
        writer.finish("done")
    assert {run["status"] for run in list_runs(store)} == {"done"}


def test_a_run_shows_that_it_lives_while_a_batch_computes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SECONDS", 0.01)
    uid = create_run(store, make_spec())
    writer = writer_of(store, uid)
    before = load_run(store, uid).heartbeat_at
    while load_run(store, uid).heartbeat_at == before:
        pass
    writer.write([make_finished(trial) for trial in range(4)])
    writer.finish("done")
    assert "mlux heartbeat" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("end", ["given up", "taken over", "closed"])
def test_it_shows_so_no_longer_than_it_works_on_it(
    location: str, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(heartbeat, "SECONDS", 0.01)
    with Store.open(location, write=True) as store:
        uid = create_run(store, make_spec())
        writer = writer_of(store, uid)
        if end == "given up":
            del writer
            gc.collect()
        elif end == "taken over":
            with store.writing() as connection:
                connection.exec_driver_sql("UPDATE runs SET pid = pid + 1")
        else:
            store.close()
        for thread in threading.enumerate():
            if thread.name == "mlux heartbeat":
                thread.join()
