"""What is filed comes back: runs, their results, and who works on them."""

import math
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from synthetic import (
    METRICS,
    make_environment,
    make_finished,
    make_model,
    make_prompts,
    make_spec,
    token_text,
    work,
    write_run,
)

from mlux.errors import ModelError, RunError, StoreError, UnknownNameError
from mlux.results import Generation, Metric, TopTokens, Values
from mlux.store import (
    FinishedTrial,
    RunSpec,
    RunWriter,
    Store,
    TrialSpec,
    backends,
    create_run,
    info,
    list_models,
    list_runs,
    liveness,
    load_run,
    resolve_run,
    session,
    show_model,
)
from mlux.store.session import now


def rows(store: Store, query: str, **values: Any) -> list[tuple[Any, ...]]:
    with store.reading() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query), values)]


def writer_of(store: Store, uid: str) -> RunWriter:
    writer = RunWriter(store, uid, token_text)
    writer.start(make_environment())
    return writer


def failed(trial: int) -> FinishedTrial:
    return FinishedTrial(trial=trial, results=[], error="out of memory")


def test_a_run_comes_back_as_it_was_filed(store: Store) -> None:
    conditions = [{}, {"site": "head", "layer": "3"}]
    spec = make_spec(conditions=conditions, memory_bytes=1 << 34, rerun_of="0123456789ab")
    uid = create_run(store, spec)
    run = load_run(store, uid)
    shared = set(RunSpec.__slots__) - {"environment", "unread"}  # the last is an event
    assert len(shared) == 15
    for name in shared:
        assert getattr(run, name) == getattr(spec, name), name
    assert run.prompts.content_hash == spec.prompts.content_hash
    assert run.model.content_hash == spec.model.content_hash
    assert run.environment == replace(spec.environment, pid=0)
    assert run.versions == spec.environment.versions
    assert run.status == "queued"
    assert run.pending == tuple(range(8))
    assert [event.kind for event in run.events] == ["created"]
    assert repr(run) == f"StoredRun({uid}: toy_lens on toy, queued, 0/8)"


def test_every_result_comes_back(store: Store) -> None:
    uid = write_run(store)
    wanted = []
    for trial in range(4):
        for result in make_finished(trial).results:
            if isinstance(result, Values):
                wanted += [(trial, result.metric, *row) for row in result.rows()]
    found = rows(
        store,
        "SELECT v.trial, m.name, v.layer, v.head, v.position, v.value "
        "FROM layer_results AS v JOIN metrics AS m ON m.id = v.metric_id",
    )
    assert sorted(found) == sorted(wanted)

    tops = rows(
        store,
        "SELECT trial, layer, position, rank, token, probability FROM predictions "
        "WHERE run = :uid AND trial = 3 AND layer = 1 ORDER BY rank",
        uid=uid,
    )
    assert tops == [
        (3, 1, 4, 0, "␣w4", pytest.approx(math.exp(-0.5))),
        (3, 1, 4, 1, "␣w5", pytest.approx(math.exp(-1.5))),
    ]
    ids = rows(
        store,
        "SELECT t.role, k.token_id FROM trial_tokens AS t JOIN tokens AS k ON k.id = t.token "
        "WHERE t.trial = 2 ORDER BY t.role, t.position",
    )
    assert ids == [(role, i) for role, i in zip(["clean"] * 3 + ["corrupted"] * 3,
                                                [1, 2, 2, 1, 3, 2], strict=True)]  # fmt: skip
    # Half a surrogate pair cannot be stored as UTF-8.
    assert rows(store, "SELECT text, token_ids FROM generations WHERE trial = 1") == [
        ("city 1 ?", "5 6 1")
    ]


def test_the_views_say_null_where_there_is_no_head(store: Store) -> None:
    write_run(store)
    seen = rows(store, "SELECT DISTINCT metric, layer IS NULL, head IS NULL, position FROM results")
    assert sorted(seen) == [
        ("accuracy", 1, 1, None),
        ("answer_rank", 0, 1, None),
        ("head_score", 0, 0, None),
        ("logit_diff", 0, 1, None),
    ]


def test_a_finished_run_says_what_it_cost(store: Store) -> None:
    uid = write_run(store)
    run = load_run(store, uid)
    assert run.status == "done"
    assert run.counts == {"done": 4, "failed": 0, "pending": 0}
    assert (run.seconds, run.hook_fires, run.peak_memory_bytes) == (0.5, 7, 1000)
    assert run.created_at <= (run.started_at or "") <= (run.finished_at or "")
    assert run.environment.pid == os.getpid()


def test_equal_things_are_filed_once(store: Store) -> None:
    write_run(store)
    once = info(store)["rows"]
    write_run(store)
    twice = info(store)["rows"]
    grown = {table for table in once if twice[table] > once[table]}
    assert grown == {
        *("runs", "run_params", "run_tags", "run_versions", "run_metrics", "run_events"),
        *("trials", "layer_results", "token_predictions", "trial_tokens", "generations"),
    }


def test_a_changed_metric_leaves_the_old_numbers_their_meaning(store: Store) -> None:
    first = write_run(store)
    changed = (replace(METRICS[0], unit="percentile"), *METRICS[1:])
    second = write_run(store, make_spec(metrics=changed))
    assert load_run(store, first).metrics[0].unit == "rank"
    assert {metric.unit for metric in load_run(store, second).metrics} >= {"percentile"}


def test_models_that_share_a_name_are_told_apart(store: Store) -> None:
    same = [
        make_model(),
        make_model(weights_hash="01" * 32, quant_bits=4),
        make_model(weights_hash="02" * 32),
        make_model(weights_hash="03" * 32),
        make_model(adapter_source="runs/lora-fr", adapter_hash="04" * 32),
        make_model(dtype="float16"),
    ]
    for model in same:
        write_run(store, make_spec(model=model))
    labels = {model["content_hash"]: model["model"] for model in list_models(store)}
    assert [labels[model.content_hash] for model in same] == [
        "toy",
        "toy-4bit",
        f"toy@{same[2].content_hash[:8]}",
        f"toy@{same[3].content_hash[:8]}",
        "toy+lora-fr",
        "toy-float16",
    ]
    assert {row[0] for row in rows(store, "SELECT DISTINCT model FROM results")} == set(
        labels.values()
    )
    assert show_model(store, "toy-4bit")["quant_bits"] == 4
    assert show_model(store, same[2].content_hash[:10])["label"].startswith("toy@")
    with pytest.raises(UnknownNameError, match="Did you mean 'toy-4bit'"):
        show_model(store, "toy-4bi")
    assert len(list_runs(store, model="toy")) == 6
    assert len(list_runs(store, model="toy-4bit")) == 1


def test_a_name_that_several_models_share_is_asked_back(store: Store) -> None:
    write_run(store, make_spec(model=make_model("a")))
    write_run(store, make_spec(model=make_model("b", weights_hash="00")))
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE models SET name = 'same'")
    with pytest.raises(ModelError, match="may be any of: a, b"):
        show_model(store, "same")


def test_a_model_that_moved_is_looked_for_in_its_new_place(store: Store) -> None:
    uid = write_run(store)
    write_run(store, make_spec(model=make_model(source="/new/place")))
    assert load_run(store, uid).model.source == "/new/place"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"trials": ()}, "has no trials"),
        ({"trials": (TrialSpec(prompt=1), TrialSpec(prompt=1))}, "same prompt and condition twice"),
        ({"metrics": (METRICS[0], METRICS[0])}, "declares a metric twice"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    store: Store, changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(RunError, match=complaint):
        create_run(store, make_spec(**changes))
    assert info(store)["rows"]["runs"] == 0


NAN = Values(metric="head_score", values=[[0.0, 1.0], [2.0, math.nan]], axes=("layer", "head"))


@pytest.mark.parametrize(
    ("results", "complaint"),
    [
        ([NAN], "Trial 1: head_score is not a finite number at layer 1, head 1"),
        ([Values(metric="accuracy", values=math.nan)], "accuracy is not a finite number. Nothing"),
        ([Values(metric="acuracy", values=1.0)], "Did you mean 'accuracy'"),
        ([Values(metric="accuracy", values=1.0)] * 2, "a result is there twice"),
        ([Generation(text="a", token_ids=[1])] * 2, "a result is there twice"),
        (
            [TopTokens(token_ids=[1], logprobs=[math.nan], layer=0, position=0)],
            "Trial 1: log probability is not a finite number at layer 0, position 0",
        ),
        (
            [TopTokens(token_ids=[1], logprobs=[-1.0], layer=0, position=-1)],
            "place_is_valid",
        ),
    ],
)
def test_a_bad_result_is_refused_and_nothing_of_its_batch_stays(
    store: Store, results: Sequence[Any], complaint: str
) -> None:
    uid = create_run(store, make_spec())
    writer = writer_of(store, uid)
    writer.write([make_finished(0)])
    before = info(store)["rows"]
    bad = FinishedTrial(trial=1, results=results, tokens={"clean": [1, 30]})
    with pytest.raises((StoreError, UnknownNameError), match=complaint):
        writer.write([make_finished(2), bad])
    assert info(store)["rows"] == before
    assert load_run(store, uid).pending == (1, 2, 3)
    # The writer is as good as before: its memory of tokens was not ahead of the database.
    writer.write([make_finished(trial) for trial in (1, 2, 3)])
    writer.finish("done")


def test_a_trial_is_done_once(store: Store) -> None:
    writer = writer_of(store, create_run(store, make_spec()))
    writer.write([make_finished(0)])
    for trial in (0, 99):
        with pytest.raises(RunError, match=f"no trial {trial} that is still to be done"):
            writer.write([make_finished(trial)])


def test_a_failed_trial_is_kept_with_its_reason_and_tried_again(store: Store) -> None:
    uid = create_run(store, make_spec())
    writer = writer_of(store, uid)
    writer.write([make_finished(0), failed(1)])
    with pytest.raises(RunError, match="2 trials are pending"):
        writer.finish("done")
    writer.finish("failed", error="stopped after 1 failure")
    run = load_run(store, uid)
    assert (run.status, run.error) == ("failed", "stopped after 1 failure")
    assert run.failures == {1: "out of memory"}
    assert run.pending == (1, 2, 3)

    work(store, uid, run.pending)
    again = load_run(store, uid)
    assert (again.status, again.error, again.failures) == ("done", None, {})
    assert [event.kind for event in again.events] == [
        *("created", "started", "failed"),
        *("resumed", "done"),
    ]
    with pytest.raises(RunError, match="is done; nothing is left to do"):
        writer_of(store, uid)


def test_a_run_can_be_done_with_failed_trials(store: Store) -> None:
    uid = create_run(store, make_spec())
    writer = writer_of(store, uid)
    writer.write([make_finished(0), failed(1), make_finished(2), make_finished(3)])
    writer.finish("done")
    assert load_run(store, uid).counts == {"done": 3, "failed": 1, "pending": 0}


def test_a_run_belongs_to_one_process(store: Store) -> None:
    uid = create_run(store, make_spec())
    first = writer_of(store, uid)
    with pytest.raises(RunError, match=rf"Process {os.getpid()} on .* is working on run {uid}"):
        writer_of(store, uid)
    liveness.at_work.pop(uid)  # as if the first had been given up
    assert load_run(store, uid).status == "crashed"
    second = writer_of(store, uid)
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE runs SET pid = pid + 1")
    for writer in (first, second):
        with pytest.raises(RunError, match="no longer this process's"):
            writer.write([make_finished(0)])


def test_a_run_whose_process_is_gone_has_crashed(store: Store, location: str) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    uid = create_run(store, make_spec())
    RunWriter(store, uid, token_text).start(replace(make_environment(), pid=ended.pid))
    with Store.open(location) as reading:
        assert [run["status"] for run in list_runs(reading)] == ["crashed"]
        # The reader said so to everybody.
        assert rows(reading, "SELECT status FROM run_overview") == [("crashed",)]
        assert list_runs(reading, status="running") == []
        assert load_run(reading, uid).events[-1].message == f"process {ended.pid} is gone"
    work(store, uid, load_run(store, uid).pending)
    assert load_run(store, uid).status == "done"


def test_a_crash_is_shown_also_where_it_cannot_be_written_down(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = create_run(store, make_spec())
    writer_of(store, uid)  # given up at once
    monkeypatch.setattr("mlux.store.reader.mark_crashed", lambda _: {uid})
    assert [run["run"] for run in list_runs(store, status="crashed")] == [uid]
    assert load_run(store, uid).status == "crashed"


@pytest.mark.parametrize(
    ("host", "heartbeat", "alive"),
    [
        ("elsewhere", "2000-01-01T00:00:00+00:00", False),
        ("elsewhere", "2999-01-01T00:00:00+00:00", True),
        (socket.gethostname(), "2999-01-01T00:00:00+00:00", True),
        # The number of a process was given anew since: known only where /proc says when it started.
        (socket.gethostname(), "2000-01-01T00:00:00+00:00", not Path("/proc/self/stat").exists()),
    ],
)
def test_a_sign_of_life_of_long_ago_is_none(
    store: Store, host: str, heartbeat: str, alive: bool
) -> None:
    with store.reading() as connection:
        assert liveness.is_alive(connection, "x", host, os.getppid(), heartbeat) is alive


def _beat(store: Store, ago: timedelta, **where: Any) -> None:
    """A sign of life by a clock that is wrong: also by another machine or process."""
    with store.writing() as connection:
        time = datetime.fromisoformat(now(connection)) - ago
        sets = where | {"heartbeat_at": time.isoformat(timespec="milliseconds")}
        names = ", ".join(f"{name} = :{name}" for name in sets)
        for table in ("runs", "run_workers"):
            connection.execute(sa.text(f"UPDATE {table} SET {names}"), sets)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("step", [timedelta(minutes=11), timedelta(hours=1), -timedelta(hours=1)])
@pytest.mark.parametrize("here", [True, False])
def test_a_clock_that_is_set_or_differs_ends_no_run(
    store: Store,
    here: bool,
    step: timedelta,
    share: bool,
    other: "subprocess.Popen[bytes]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process lives, and its last sign of life seems to be from before it was started."""
    where = {"host": make_environment().host if here else "elsewhere", "pid": other.pid}
    uid = create_run(store, make_spec())
    with monkeypatch.context() as patched:
        patched.setattr(liveness, "at_work", {})
        RunWriter(store, uid, token_text).start(
            replace(make_environment(), pid=other.pid), share=share
        )
    for late in (timedelta(0), timedelta(seconds=1), timedelta(seconds=2)):
        _beat(store, step - late, **where)
        assert [run["status"] for run in list_runs(store)] == ["running"]
        assert load_run(store, uid).status == "running"
        with pytest.raises(RunError, match="working on run"):
            writer_of(store, uid)
    silent = {one.message for one in load_run(store, uid).events if one.kind == "silent"}
    seems_gone = step > timedelta(0) and (not here or Path("/proc/self/stat").exists())
    assert len(silent) == int(seems_gone)  # in place of those of before
    monkeypatch.setattr(liveness, "SILENCE", timedelta(0))  # a look after this time
    assert load_run(store, uid).status == ("crashed" if seems_gone else "running")


def test_a_clock_that_is_set_back_leaves_the_times_of_a_run_in_order(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = create_run(store, make_spec())
    run = writer_of(store, uid)
    begun = load_run(store, uid)
    back = (f"2020-01-01T00:00:0{second}.000+00:00" for second in count())
    monkeypatch.setattr("mlux.store.writer.now", lambda _: next(back))
    beats = [begun.heartbeat_at]
    for trial in range(4):
        run.write([make_finished(trial)])
        beats.append(load_run(store, uid).heartbeat_at)
    run.finish("done")
    assert beats == sorted(set(filter(None, beats)))
    ended = load_run(store, uid).finished_at
    assert ended is not None
    assert begun.started_at is not None
    assert ended > begun.started_at


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_the_time_of_a_server_is_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(datetime):
        """This machine's clock, which nobody asks."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Stopped":
            raise AssertionError

    monkeypatch.setattr(session, "datetime", Stopped)
    uid = write_run(store)
    clock = "SELECT clock_timestamp()"
    with store.reading() as connection:
        time = datetime.fromisoformat(now(connection))
        assert time <= connection.exec_driver_sql(clock).scalar_one()
    run = load_run(store, uid)
    for text in (run.created_at, run.started_at, run.heartbeat_at, run.finished_at):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", text or "")


def test_a_run_is_found_by_what_a_person_types(store: Store) -> None:
    with pytest.raises(RunError, match=r"There is no run in .* yet"):
        resolve_run(store, "latest")
    first = write_run(store)
    other = write_run(store, make_spec(experiment="induction"))
    assert resolve_run(store, first) == first
    assert resolve_run(store, first[:8].upper()) == first
    assert resolve_run(store, "latest") == other
    assert resolve_run(store, "latest:toy_lens") == first
    assert resolve_run(store, "latest~1") == first
    assert resolve_run(store, "latest:toy_lens~0") == first
    with pytest.raises(RunError, match=r"There are not 2 runs of toy_lens"):
        resolve_run(store, "latest:toy_lens~1")
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE runs SET uid = 'abc' || id")
    with pytest.raises(RunError, match=r"'abc' is the start of 2 runs: abc2 \(induction, 20.*abc1"):
        resolve_run(store, "abc")
    with pytest.raises(UnknownNameError, match="Did you mean 'abc"):
        resolve_run(store, "acb1")
    with pytest.raises(UnknownNameError, match="Did you mean 'induction'"):
        resolve_run(store, "latest:inducton")
    with pytest.raises(UnknownNameError):
        resolve_run(store, "")
    with pytest.raises(UnknownNameError, match="No run named 'nope'"):
        load_run(store, "nope")


def test_runs_are_listed_newest_first_and_filtered(store: Store) -> None:
    first = write_run(store)
    other = write_run(
        store,
        make_spec(experiment="induction", model=make_model("big", n_layers=9), tags={"a": "1"}),
    )
    queued = create_run(store, make_spec(tags={"a": "2"}))

    def listed(**filters: Any) -> list[str]:
        return [run["run"] for run in list_runs(store, **filters)]

    assert listed() == [queued, other, first]
    assert listed(limit=2) == [queued, other]
    assert listed(experiment="induction") == [other]
    assert listed(model="big") == [other]
    assert listed(model=make_model().content_hash[:12]) == [queued, first]
    assert listed(status="done") == [other, first]
    assert listed(tag="a") == [queued, other]
    assert listed(tag="a=2") == [queued]
    assert listed(tag={"a": "1"}, status="done") == [other]
    assert listed(experiment="induction", status="queued") == []
    row = list_runs(store)[-1]
    assert (row["trials"], row["done"], row["failed"]) == (4, 4, 0)
    assert row["params"] == dict(make_spec().params)
    assert row["tags"] == {"paper": "toy"}
    for filters, close in (
        ({"experiment": "toy_len"}, "toy_lens"),
        ({"model": "bigg"}, "big"),
        ({"status": "don"}, "done"),
    ):
        with pytest.raises(UnknownNameError, match=f"Did you mean '{close}'"):
            listed(**filters)


def test_a_deleted_run_is_out_of_sight(store: Store) -> None:
    uid = write_run(store)
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE runs SET deleted_at = created_at")
    assert list_runs(store) == []
    for view in ("run_overview", "results", "predictions"):
        assert rows(store, f"SELECT count(*) FROM {view}") == [(0,)]
    with pytest.raises(RunError, match="There is no run"):
        resolve_run(store, "latest")
    with pytest.raises(RunError, match="is deleted"):
        writer_of(store, uid)


def test_large_prompt_sets_and_many_prompts_of_the_same_text(store: Store) -> None:
    prompts = make_prompts(3)
    same_text = tuple(replace(prompt, text="The capital is") for prompt in prompts.prompts)
    uid = create_run(store, make_spec(prompts=replace(prompts, prompts=same_text)))
    assert load_run(store, uid).prompts.prompts == same_text


def test_a_control_knows_what_it_controls(store: Store) -> None:
    # The controlled condition is filed though no trial of the run has it.
    conditions = [{"site": "head", "control": "random"}, {"control": "zero"}, {"site": "mlp"}]
    uid = create_run(store, make_spec(conditions=conditions))
    assert [trial.condition for trial in load_run(store, uid).trials[::4]] == conditions
    work(store, uid, range(12))
    assert set(rows(store, "SELECT DISTINCT condition, controls FROM results")) == {
        ("site=head, control=random", "site=head"),
        ("control=zero", ""),
        ("site=mlp", None),
    }
    again = write_run(store, make_spec(conditions=[{"control": "random", "site": "head"}]))
    known = "SELECT DISTINCT controls FROM results WHERE run = :run"
    assert rows(store, known, run=again) == [("site=head",)]
    assert info(store)["rows"]["conditions"] == 5


def test_a_metric_without_values_is_still_declared(store: Store) -> None:
    spec = make_spec(metrics=(*METRICS, Metric(name="unused", unit="", description="")))
    assert [metric.name for metric in load_run(store, create_run(store, spec)).metrics] == [
        *(metric.name for metric in METRICS),
        "unused",
    ]


def test_a_full_disk_is_one_line_and_loses_nothing_that_was_committed(sqlite_store: Store) -> None:
    store = sqlite_store
    uid = create_run(store, make_spec())
    writer = writer_of(store, uid)
    writer.write([make_finished(0)])

    @sa.event.listens_for(store.engine, "checkout")
    def fill(connection: Any, *_: Any) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # as many as there are now

    text = "long " * 20_000
    big = FinishedTrial(trial=1, results=[Generation(text=text, token_ids=[1])])
    with pytest.raises(StoreError, match=r"^Database .*mlux\.db: database or disk is full\.$"):
        writer.write([big])
    sa.event.remove(store.engine, "checkout", fill)
    assert load_run(store, uid).pending == (1, 2, 3)


def test_a_lock_that_is_never_given_back_is_one_line(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlux.store.sqlite_file.BUSY_SECONDS", 0.1)
    with Store.open(db, write=True) as first, Store.open(db, write=True) as second:
        with (
            first.writing(),
            pytest.raises(StoreError, match="database is locked"),
            second.writing(),
        ):
            pass
        write_run(second)


def test_a_lock_that_is_held_longer_than_one_wait_is_waited_for(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlux.store.sqlite_file.BUSY_SECONDS", 0.05)
    refused = threading.Event()
    is_busy = backends.is_busy

    def refuse(error: sa.exc.OperationalError) -> bool:
        refused.set()
        return is_busy(error)

    monkeypatch.setattr(backends, "is_busy", refuse)
    with Store.open(db, write=True) as first, Store.open(db, write=True) as second:
        with first.writing():
            waiting = threading.Thread(target=write_run, args=(second,))
            waiting.start()
            refused.wait()
        waiting.join()
        assert [run["status"] for run in list_runs(first)] == ["done"]


def test_an_error_of_ours_is_not_dressed_up(store: Store) -> None:
    with (
        pytest.raises(sa.exc.DBAPIError, match=r"column.* missing|missing.* not exist"),
        store.reading() as c,
    ):
        c.exec_driver_sql("SELECT missing FROM runs")


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_run_whose_file_is_gone_does_not_end_as_done(
    sqlite_store: Store, db: Path, replaced: bool
) -> None:
    store = sqlite_store
    uid = create_run(store, make_spec())
    writer = writer_of(store, uid)
    writer.write([make_finished(trial) for trial in load_run(store, uid).pending])
    db.rename(db.with_name("elsewhere.db"))
    if replaced:
        db.touch()
    with pytest.raises(StoreError, match="was removed, renamed or replaced while it was in use"):
        writer.finish("done")
    assert db.exists() == replaced
