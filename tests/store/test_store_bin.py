"""Into the bin and out of it, away for good, and nothing of anybody else's with it."""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from synthetic import make_environment, make_finished, make_spec, token_text, work, write_run

from mlux.errors import RunError, StoreError, UnknownNameError
from mlux.results import Artifact
from mlux.store import (
    FinishedTrial,
    RunSpec,
    RunWriter,
    Store,
    artifacts,
    create_run,
    info,
    list_runs,
    load_run,
    soundness,
)
from mlux.store.deletion import delete_runs, erase_runs, resolve_any, resolve_deleted, restore_runs
from mlux.store.garbage import collect_garbage


def counts(store: Store) -> dict[str, int]:
    found: dict[str, int] = info(store)["rows"]
    return found


def with_vector(store: Store, *numbers: float) -> str:
    """A run that keeps these numbers as an artifact."""
    uid = create_run(store, make_spec())
    writer = RunWriter(store, uid, token_text)
    writer.start(make_environment())
    vector = Artifact(name="v", kind="vectors", arrays={"v": np.array(numbers)})
    writer.put_artifacts([vector])
    results = [*make_finished(0).results, vector]
    writer.write([FinishedTrial(trial=0, results=results)])
    writer.write([make_finished(trial) for trial in (1, 2, 3)])
    writer.finish("done")
    return uid


def files(store: Store) -> list[Path]:
    return sorted(p for p in artifacts.folder(store).rglob("*") if p.is_file())


def test_a_deleted_run_comes_back_as_it_was(store: Store) -> None:
    uid, kept = write_run(store), write_run(store)
    before, rows = load_run(store, uid), counts(store)
    delete_runs(store, [uid])
    delete_runs(store, [uid])
    assert [run["run"] for run in list_runs(store)] == [kept]
    assert [run["run"] for run in list_runs(store, deleted=True)] == [uid]
    assert resolve_deleted(store, uid[:9].upper()) == uid
    restore_runs(store, [uid])
    assert list_runs(store, deleted=True) == []
    after = load_run(store, uid)
    assert [event.kind for event in after.events[-2:]] == ["deleted", "restored"]
    assert replace(after, events=before.events) == before
    assert counts(store) == rows | {"run_events": rows["run_events"] + 2}


def test_a_run_deleted_for_good_takes_what_is_its_own_and_nothing_else(store: Store) -> None:
    with_vector(store, 1.0)
    before = counts(store)
    gone = with_vector(store, 1.0)
    with store.writing() as connection:
        connection.exec_driver_sql(
            "INSERT INTO claims (uid, text, status, created_at, updated_at) "
            "SELECT 'c1', 'it holds', 'open', created_at, created_at FROM runs WHERE id = 1"
        )
        connection.exec_driver_sql("INSERT INTO claim_runs SELECT 1, id, NULL FROM runs")
    erase_runs(store, [gone])
    assert counts(store) == before | {"claims": 1, "claim_runs": 1}
    assert soundness.check(store) == []


def test_a_run_that_is_worked_on_stays(store: Store) -> None:
    uid = create_run(store, make_spec())
    writer = RunWriter(store, uid, token_text)
    writer.start(make_environment())
    other = write_run(store)
    for away in (delete_runs, erase_runs):
        with pytest.raises(RunError, match=f"is working on run {uid}. Stop it first"):
            away(store, [uid, other])
    assert len(list_runs(store)) == 2
    writer.finish("crashed")
    delete_runs(store, [uid])
    restore_runs(store, [uid])
    work(store, uid, range(4))


def test_what_is_not_in_the_bin_is_not_found_there(store: Store) -> None:
    uid = write_run(store)
    assert resolve_any(store, "latest") == uid
    with pytest.raises(UnknownNameError, match=f"No deleted run named '{uid}'. List them with"):
        resolve_deleted(store, uid)
    delete_runs(store, [uid])
    assert resolve_any(store, uid) == uid
    with pytest.raises(UnknownNameError, match="No run named 'nope'"):
        resolve_any(store, "nope")
    with pytest.raises(UnknownNameError, match="No run named 'nope'"):
        delete_runs(store, ["nope"])


def test_garbage_is_what_no_run_needs(store: Store) -> None:
    shared, only, stays = with_vector(store, 1.0), with_vector(store, 2.0), with_vector(store, 1.0)
    stray = artifacts.place(
        artifacts.folder(store), Artifact(name="s", kind="k", arrays={"s": np.ones(3)})
    )
    (artifacts.folder(store) / "notes.txt").write_text("not ours")
    assert len(files(store)) == 4
    delete_runs(store, [shared, only])

    def collect(**options: Any) -> tuple[set[str], int]:
        found = collect_garbage(store, **options)
        return set(found.runs), len(found.files)

    assert collect(dry_run=True) == (set(), 1)
    assert collect(older_than=timedelta(0), dry_run=True) == ({shared, only}, 2)
    assert len(list_runs(store, deleted=True)) == 2
    assert len(files(store)) == 4
    assert collect() == (set(), 1)
    assert not artifacts.path_of(artifacts.folder(store), stray.sha256).exists()
    assert collect(older_than=timedelta(0)) == ({shared, only}, 1)
    assert collect(older_than=timedelta(0)) == (set(), 0)
    assert [run["run"] for run in list_runs(store)] == [stays]
    assert artifacts.load(store, stays, "v")["v"].tolist() == [1.0]
    assert len(files(store)) == 2
    assert soundness.check(store) == []


def test_runs_are_listed_page_by_page(store: Store) -> None:
    uids = [create_run(store, make_spec()) for _ in range(5)][::-1]
    seen: list[str] = []
    while page := list_runs(store, limit=2, before=seen[-1] if seen else None):
        seen += [run["run"] for run in page]
    assert seen == uids
    # A run that comes in the meantime moves no page.
    create_run(store, make_spec())
    assert [run["run"] for run in list_runs(store, limit=2, before=uids[1])] == uids[2:4]


def test_a_sound_notebook_is_said_to_be_sound(store: Store) -> None:
    assert soundness.check(store) == []
    with_vector(store, 1.0)
    assert soundness.check(store) == []


def damage_file(store: Store) -> None:
    path = files(store)[0]
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def lose_file(store: Store) -> None:
    files(store)[0].unlink()


def executing(*statements: str) -> Any:
    def execute(store: Store) -> None:
        with store.migrating() as connection:
            on_sqlite = connection.dialect.name == "sqlite"
            infinite = "9e999" if on_sqlite else "CAST('Infinity' AS DOUBLE PRECISION)"
            for statement in statements:
                connection.execute(sa.text(statement.replace("INFINITE", infinite)))

    return execute


def one_value(change: str) -> Any:
    return executing(
        f"UPDATE layer_results SET {change} WHERE trial = 0 AND metric_id = "
        "(SELECT id FROM metrics WHERE name = 'accuracy')"
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_file, r"^Artifact 'v' of run \w+ \(and 1 more\) was altered: "),
        (lose_file, r"^Artifact 'v' of run \w+ \(and 1 more\) has lost its file, "),
        (executing("DROP INDEX ix_runs_model_id"), "(lacks ix_runs_model_id|runs is not as)"),
        (executing("ALTER TABLE runs ADD COLUMN mood TEXT"), "schema's runs is not as mlux made"),
        (executing("DROP VIEW results"), "schema lacks results"),
        (executing("CREATE TABLE mine (a INTEGER)"), "has mine, which mlux does not know"),
        (
            executing("UPDATE trials SET status = 'pending', finished_at = NULL WHERE trial = 3"),
            r"Run \w+ is said to be done, with 1 trials pending",
        ),
        (
            executing("UPDATE run_params SET value = '[1, 2' WHERE name = 'top_k'"),
            r"Run \w+: the parameter 'top_k' is no JSON: '\[1, 2'",
        ),
        (
            executing("UPDATE run_params SET value = 'NaN' WHERE name = 'top_k'"),
            "the parameter 'top_k' is no JSON: 'NaN'",
        ),
        (one_value("value = INFINITE"), r"Run \w+: accuracy has a value that is infinite"),
        (one_value("value = -INFINITE"), r"Run \w+: accuracy has a value that is infinite"),
        (one_value("layer = 99"), "accuracy has a value at layer 99 of a model of 3"),
        (one_value("layer = 3"), "accuracy has a value at layer 3 of a model of 3"),
        (one_value("head = 2"), "accuracy has a value at head 2 of a model of 2"),
        (
            executing("DELETE FROM run_metrics WHERE metric_id = "
                      "(SELECT id FROM metrics WHERE name = 'accuracy')"),
            r"Run \w+: accuracy has values, and the run does not declare it",
        ),
        (executing("UPDATE token_predictions SET logprob = 0.5 WHERE trial = 0"), "ility of 0.5"),
        (executing("UPDATE token_predictions SET logprob = -INFINITE WHERE trial = 0"), "of -inf"),
        (
            executing("UPDATE token_predictions SET layer = 7 WHERE trial = 0 AND layer = 1"),
            r"Run \w+ has a prediction at layer 7 of a model of 3",
        ),
        (executing("UPDATE runs SET seconds = INFINITE"), r"seconds of '\w+' is infinite"),
        (executing("UPDATE tokenizers SET identity_hash = 'x'"), "row 1 of tokenizers is"),
        (executing("UPDATE models SET n_layers = 40"), "row 1 of models is not what its hash says"),
        (executing("UPDATE prompt_sets SET content_hash = 'x'"), "row 1 of prompt_sets is not"),
        (
            executing("UPDATE prompts SET label = 'other' WHERE id = 1"),
            "row 1 of prompts is not what its hash says",
        ),
        (
            executing("UPDATE prompts SET token_ids = 'one two' WHERE id = 1"),
            "row 1 of prompts is no such thing",
        ),
        (executing("UPDATE runs SET created_at = 'today'"), "created_at is no time: 'today', of u"),
        (executing("UPDATE runs SET created_at = '2000-01-01T00:00:00'"), "created_at is no time"),
        (
            executing(
                "UPDATE trials SET finished_at = '2999-01-01T00:00:00+00:00' WHERE trial = 1"
            ),
            "trials: finished_at lies ahead: 2999",
        ),
        (
            executing("UPDATE runs SET finished_at = '2000-01-01T00:00:00+00:00'"),
            "runs: finished_at is before heartbeat_at: 2000",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(store: Store, damage: Any, said: str) -> None:
    with_vector(store, 1.0)
    damage(store)
    (line,) = soundness.check(store)
    assert re.search(said, line), line


@pytest.mark.parametrize("conditions", [[{}, {"a": "b"}, {"a": "b", "control": "c"}]])
def test_a_circle_of_controls_is_said(store: Store, conditions: Any) -> None:
    write_run(store, make_spec(conditions=conditions))
    assert soundness.check(store) == []
    executing(
        "UPDATE conditions SET controls_id = (SELECT id FROM conditions WHERE label = "
        "'a=b, control=c') WHERE label = 'a=b'"
    )(store)
    assert soundness.check(store) == [
        "The condition 'a=b' controls another one than that of its other values."
    ]


def test_a_broken_parameter_stops_no_listing(store: Store) -> None:
    uid = write_run(store)
    executing("UPDATE run_params SET value = '{' WHERE name = 'top_k'")(store)
    (run,) = list_runs(store)
    assert run["params"]["top_k"] == "{"
    with pytest.raises(StoreError, match=f"Run {uid} is damaged: its parameter 'top_k' is no JSON"):
        load_run(store, uid)


@pytest.mark.parametrize(
    "spec",
    [
        make_spec(conditions=[{"layer_axis": "depth in percent"}]),
        replace(make_spec(), experiment="cross_model"),
    ],
    ids=["says so", "as it was"],
)
def test_what_counts_no_layers_may_count_further(store: Store, spec: RunSpec) -> None:
    write_run(store, spec)
    executing("UPDATE layer_results SET layer = 100 WHERE layer = 1")(store)
    assert soundness.check(store) == []


def test_references_to_nothing_are_counted(sqlite_store: Store) -> None:
    with_vector(sqlite_store, 1.0)
    executing("DELETE FROM models")(sqlite_store)
    assert soundness.check(sqlite_store) == ["1 row of runs refer to nothing in models."]
