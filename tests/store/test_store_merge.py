"""A merge loses nothing, doubles nothing, and done twice changes nothing, across both backends."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from fuzzing import claims_of, everything, runs_of
from synthetic import (
    METRICS,
    make_environment,
    make_finished,
    make_model,
    make_prompts,
    make_spec,
    number,
    token_text,
    work,
    write_run,
)

from mlux.errors import StoreError
from mlux.provenance import TokenText
from mlux.results import Artifact, Generation, Values
from mlux.store import (
    FinishedTrial,
    RunWriter,
    Store,
    artifacts,
    create_run,
    list_models,
    list_runs,
    load_run,
    note_run,
    resolve_run,
    tag_run,
)
from mlux.store.claims import add_claim, edit_claim
from mlux.store.deletion import delete_runs, erase_runs
from mlux.store.merge import merge
from mlux.store.merge_rows import KEYS, OF_RUN, PARTS
from mlux.store.soundness import check
from mlux.store.tables import Base

PAIRS = [
    ("sqlite", "sqlite"),
    ("sqlite", "postgresql"),
    ("postgresql", "sqlite"),
    ("postgresql", "postgresql"),
]


@pytest.fixture(params=PAIRS, ids=" to ".join)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param  # type: ignore[no-any-return] # one of PAIRS


@pytest.fixture
def other(pair: tuple[str, str], new_location: Any) -> Iterator[Store]:
    """The notebook that is merged into the other."""
    with Store.open(new_location(pair[0]), write=True) as opened:
        yield opened


@pytest.fixture
def target(pair: tuple[str, str], new_location: Any) -> Iterator[Store]:
    with Store.open(new_location(pair[1]), write=True) as opened:
        yield opened


@pytest.fixture
def two_files(new_location: Any) -> Iterator[tuple[Store, Store]]:
    """Two notebooks that are files, for what both backends have in common."""
    with (
        Store.open(new_location("sqlite"), write=True) as one,
        Store.open(new_location("sqlite"), write=True) as two,
    ):
        yield one, two


def with_artifacts(store: Store, **changes: Any) -> str:
    uid = create_run(store, make_spec(**changes))
    writer = RunWriter(store, uid, token_text)
    writer.start(make_environment())
    writer.put_artifacts([Artifact(name="v", kind="vectors", arrays={"v": np.arange(5.0)})])
    for trial in load_run(store, uid).pending:
        made = make_finished(trial)
        extra = Artifact(name="p", kind="patterns", arrays={"p": np.full(3, trial)})
        writer.write([replace(made, results=[*made.results, extra])])
    writer.finish("done")
    return uid


def fill(store: Store) -> list[str]:
    """Runs of every kind: done, failed in part, queued, deleted, with controls and artifacts."""
    uids = [write_run(store, make_spec(conditions=[{}, {"site": "head", "control": "random"}]))]
    uids.append(with_artifacts(store, model=make_model("big", weights_hash="00" * 32)))
    uids.append(create_run(store, make_spec(experiment="waiting", tags={}, note=None)))
    partial = create_run(store, make_spec(n_prompts=6, metrics=METRICS))
    writer = RunWriter(store, partial, token_text)
    writer.start(make_environment())
    writer.write([make_finished(0), FinishedTrial(trial=1, results=[], error="no")])
    writer.finish("crashed", error="stopped")
    uids.append(partial)
    deleted = write_run(store, make_spec(prompts=make_prompts(2, "deleted")))
    delete_runs(store, [deleted])
    add_claim(store, "heads matter", runs=uids[:2], status="supported", note="see figure 1")
    return [*uids, deleted]


def test_everything_comes_over_and_once(other: Store, target: Store) -> None:
    uids = fill(other)
    mine = write_run(target, make_spec(experiment="mine"))
    before, wanted = runs_of(target), runs_of(other)
    done = merge(target, other.location)
    assert (sorted(done.new), done.completed, done.same, done.refused) == (sorted(uids), {}, [], {})
    assert runs_of(target) == before | wanted
    assert claims_of(target) == claims_of(other)
    assert check(target) == []
    assert runs_of(other) == wanted  # and the other one was not changed
    loaded = artifacts.load(target, uids[1], "p", trial=2)
    np.testing.assert_array_equal(loaded["p"], np.full(3, 2))

    rows = everything(target)
    again = merge(target, other.location)
    assert (again.new, again.completed, sorted(again.same)) == ([], {}, sorted(uids))
    assert everything(target) == rows
    # There and back: the other one gets what only the target had, and then both are equal.
    assert merge(other, target.location).new == [mine]
    assert runs_of(other) == runs_of(target)
    assert merge(target, other.location).new == []
    assert everything(target) == rows


def test_a_run_that_went_on_elsewhere_is_completed(other: Store, target: Store) -> None:
    uid = create_run(other, make_spec(n_prompts=6))
    writer = RunWriter(other, uid, token_text)
    writer.start(make_environment())
    writer.write([make_finished(0), FinishedTrial(trial=1, results=[], error="out of memory")])
    writer.finish("crashed")
    merge(target, other.location)
    assert load_run(target, uid).pending == (1, 2, 3, 4, 5)
    work(other, uid, load_run(other, uid).pending)
    done = merge(target, other.location)
    assert done.completed == {uid: 5}
    theirs, ours = runs_of(other)[uid], runs_of(target)[uid]
    assert ours == theirs
    assert load_run(target, uid).status == "done"
    assert check(target) == []
    assert merge(target, other.location).same == [uid]


def test_halves_that_were_done_apart_become_a_whole(other: Store, target: Store) -> None:
    uid = create_run(other, make_spec(n_prompts=4))
    merge(target, other.location)
    for store, trials in ((other, (0, 1)), (target, (2, 3))):
        writer = RunWriter(store, uid, token_text)
        writer.start(make_environment())
        writer.write([make_finished(trial) for trial in trials])
        writer.finish("crashed")
    assert merge(target, other.location).completed == {uid: 2}
    run = load_run(target, uid)
    assert (run.status, run.pending, run.error) == ("done", (), None)
    whole = write_run(target)
    assert runs_of(target)[uid]["values"] == runs_of(target)[whole]["values"]


def test_what_a_person_said_here_stays_and_is_filled_up(other: Store, target: Store) -> None:
    uid = create_run(other, make_spec(tags={"paper": "fv"}, note=None))
    merge(target, other.location)
    tag_run(other, uid, {"paper": "theirs", "new": "1"})
    note_run(other, uid, "theirs")
    tag_run(target, uid, {"paper": "mine"})
    merge(target, other.location)
    assert load_run(target, uid).tags == {"paper": "mine", "new": "1"}
    assert load_run(target, uid).note == "theirs"
    note_run(target, uid, "mine")
    delete_runs(target, [uid])
    merge(target, other.location)
    assert load_run(target, uid).note == "mine"
    assert load_run(target, uid).deleted_at is not None
    erase_runs(target, [uid])
    assert merge(target, other.location).new == [uid]


def test_the_later_text_of_a_claim_stands(other: Store, target: Store) -> None:
    first, second = write_run(other), write_run(other, make_spec(experiment="b"))
    claim = add_claim(other, "x", runs=[first])
    merge(target, other.location)
    edit_claim(other, claim.uid, text="y", status="refuted", add_runs=[second])
    merge(target, other.location)
    assert claims_of(target) == claims_of(other)
    with target.writing() as connection:
        connection.exec_driver_sql("UPDATE claims SET text = 'z', updated_at = '2999'")
    merge(target, other.location)
    assert claims_of(target)[claim.uid][0] == "z"


def test_models_of_one_label_are_told_apart(two_files: tuple[Store, Store]) -> None:
    other, target = two_files
    write_run(target, make_spec(model=make_model(weights_hash="11" * 32)))
    uid = write_run(other, make_spec(model=make_model(weights_hash="22" * 32)))
    merge(target, other.location)
    model = make_model(weights_hash="22" * 32)
    labels = {row["content_hash"]: row["model"] for row in list_models(target)}
    assert labels[model.content_hash] == f"toy@{model.content_hash[:8]}"
    assert load_run(target, uid).model == model


def test_where_a_model_was_found_here_stays(two_files: tuple[Store, Store]) -> None:
    other, target = two_files
    write_run(target, make_spec(model=make_model(source="/mine")))
    write_run(other, make_spec(model=make_model(source="/theirs")))
    merge(target, other.location)
    assert {run["model"] for run in list_runs(target)} == {"toy"}
    assert load_run(target, resolve_run(target, "latest")).model.source == "/mine"


def test_merged_runs_are_as_old_as_they_are(two_files: tuple[Store, Store]) -> None:
    other, target = two_files
    old = write_run(other)
    mine = write_run(target)
    merge(target, other.location)
    assert [run["run"] for run in list_runs(target)] == [mine, old]
    assert resolve_run(target, "latest") == mine


def test_a_run_that_is_being_worked_on_comes_as_far_as_it_is(
    two_files: tuple[Store, Store],
) -> None:
    other, target = two_files
    uid = create_run(other, make_spec())
    writer = RunWriter(other, uid, token_text)
    writer.start(make_environment())
    writer.write([make_finished(0)])
    merge(target, other.location)
    run = load_run(target, uid)
    assert (run.status, run.pending) == ("crashed", (1, 2, 3))
    assert run.events[-1].message.startswith("It was still running in")
    writer.write([make_finished(trial) for trial in (1, 2, 3)])
    writer.finish("done")
    assert merge(target, other.location).completed == {uid: 3}
    assert load_run(target, uid).status == "done"


def test_only_some_runs(two_files: tuple[Store, Store]) -> None:
    other, target = two_files
    uids = fill(other)
    done = merge(target, other.location, runs=[uids[2]])
    assert done.new == [uids[2]]
    assert claims_of(target) == {}
    merge(target, other.location, runs=uids[:1])
    (claim,) = claims_of(target).values()
    assert claim[-1] == [(uids[0], None)]


def test_a_notebook_of_an_older_mlux_is_upgraded_in_a_copy(
    two_files: tuple[Store, Store], tmp_path: Path
) -> None:
    other, target = two_files
    uid = with_artifacts(other)
    wanted = runs_of(other)
    from mlux.store import schema

    other.close()
    schema.downgrade(other, "r0001")
    old = tmp_path / "old.db"
    shutil.copy(other.location, old)
    shutil.copytree(artifacts.folder(other), tmp_path / "old.db-artifacts")
    before = old.read_bytes()
    assert merge(target, old).new == [uid]
    assert runs_of(target) == wanted
    assert old.read_bytes() == before


def test_it_is_not_merged_into_itself(store: Store) -> None:
    write_run(store)
    with pytest.raises(StoreError, match="cannot be merged into itself"):
        merge(store, store.location)


def test_every_table_has_its_place_in_a_merge() -> None:
    parts = {part for part, _ in PARTS.values()}
    apart = {"runs", "claims", "claim_runs", "model_checks"}
    assert {*KEYS, *OF_RUN, *parts, *apart} == set(Base.metadata.tables)


def test_text_with_a_null_character_comes_to_a_server(target: Store, tmp_path: Path) -> None:
    with Store.open(tmp_path / "null.db", write=True) as other:
        uid = write_run(other)
        with other.writing() as connection:  # as an older mlux wrote it
            connection.exec_driver_sql("UPDATE generations SET text = 'a' || char(0) || 'b'")
            connection.exec_driver_sql("UPDATE tokens SET text = char(0) WHERE token_id = 1")
    assert merge(target, tmp_path / "null.db").refused == {}
    assert runs_of(target)[uid]["texts"][0][2] == "a␀b"


def test_a_model_may_write_a_null_character(store: Store) -> None:
    uid = create_run(store, make_spec(n_prompts=1))
    writer = RunWriter(store, uid, lambda token: TokenText(text="\0", piece="\0", shown="\0"))
    writer.start(make_environment())
    text = Generation(text="a\0b", token_ids=[0])
    value = Values(metric="accuracy", values=number(0, 0))
    writer.write([FinishedTrial(trial=0, results=[text, value], tokens={"clean": [0]})])
    assert runs_of(store)[uid]["texts"] == [(0, 0, "a␀b", "0")]
    assert runs_of(store)[uid]["tokens"] == [(0, "clean", 0, 0, "␀")]


# --- a notebook that is not to be believed ---


def altered(path: Path, *statements: str) -> None:
    """Changes a file as no mlux would, behind every constraint."""
    for statement in statements:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(statement)
            connection.commit()


NOT_STRICT = (
    "UPDATE sqlite_master SET sql = replace(replace(sql, ',' || char(10) || ' STRICT', ''), "
    "' STRICT', '') WHERE sql LIKE '%STRICT%'"
)


@pytest.mark.parametrize(
    ("statements", "complaint"),
    [
        (["UPDATE prompts SET text = 'other'"], "row 1 of prompts is not what its hash says"),
        (["UPDATE models SET dtype = 'float16'"], "row 1 of models is not what its hash says"),
        (["UPDATE tokenizers SET identity_hash = 'x'"], "row 1 of tokenizers is not what"),
        (["UPDATE condition_values SET value = 'x'"], "of conditions is not what its hash says"),
        (["UPDATE prompt_set_items SET position = 9 - position"], "prompt_sets is not what"),
        (["DELETE FROM prompts WHERE id = 2"], "prompt_sets is not what its hash says"),
        (["DELETE FROM models"], "a row of models is missing"),
        (["DELETE FROM tokens WHERE id = 3"], "a row of tokens is missing"),
        (["UPDATE conditions SET controls_id = 2 WHERE id = 1",
          "UPDATE conditions SET controls_id = 1 WHERE id = 2"], "conditions refer to each other"),
        (["UPDATE prompts SET token_ids = 'x y'"], "row 1 of prompts is no such thing"),
        (["UPDATE runs SET status = 'won'"], "ck_runs_status_is_known"),
        (["UPDATE runs SET uid = '../../x'"], "'../../x' is no run's name"),
        (["UPDATE layer_results SET layer = -7 WHERE layer = 0"], "place_is_valid"),
        (["UPDATE trials SET trial = trial + 50"], "FOREIGN KEY"),
        ([NOT_STRICT, "UPDATE runs SET seed = 'x'"], "runs has a str as seed"),
        ([NOT_STRICT, "UPDATE runs SET note = x'ff'"], "runs has a bytes as note"),
        ([NOT_STRICT, "UPDATE layer_results SET value = 'x'"], "layer_results has a str as value"),
        ([NOT_STRICT, "UPDATE prompts SET text = x'ff'"], "prompts has a bytes as text"),
        ([NOT_STRICT, "UPDATE run_tags SET value = CAST(x'ff' AS TEXT)"], "is damaged: Could not"),
        (["UPDATE artifacts SET sha256 = '../../../../../../../../../etc/passwd' || "
          "substr(sha256, 40)"], "is no hash of a file"),
        (["UPDATE artifacts SET sha256 = replace(sha256, 'a', 'b')"], "the file is missing"),
        (["UPDATE artifacts SET bytes = bytes + 1"], "the file was altered"),
        (["UPDATE runs SET created_at = 'noon'"], "created_at is no time: 'noon'"),
        (["UPDATE layer_results SET layer = 99 WHERE layer = 0"], "at layer 99 of a model of"),
        (["UPDATE layer_results SET value = 9e999 WHERE layer = 0"], "a value that is infinite"),
        (["UPDATE run_params SET value = '{'"], "is no JSON: '{'"),
    ],
)  # fmt: skip
def test_what_was_altered_is_refused_and_the_rest_taken(
    two_files: tuple[Store, Store], statements: list[str], complaint: str
) -> None:
    other, target = two_files
    mine = write_run(target, make_spec(experiment="mine", prompts=make_prompts(2, "mine")))
    before = runs_of(target)
    conditions = [{}, {"site": "a"}]
    bad = with_artifacts(other, conditions=conditions, model=make_model("bad", d_model=9))
    assert other.path is not None
    other.close()
    altered(other.path, *statements)
    done = merge(target, other.location)
    assert done.new == []
    refused = done.refused.get(bad) or done.refused.get("../../x", "")
    assert complaint in refused
    assert "\n" not in refused
    assert runs_of(target) == before
    assert check(target) == []
    assert [run["run"] for run in list_runs(target)] == [mine]


@pytest.mark.parametrize(
    ("statements", "complaint"),
    [
        (["DROP TABLE claims"], "it has no table claims"),
        (["ALTER TABLE prompts RENAME TO p2", "CREATE VIEW prompts AS SELECT * FROM p2"],
         "it has no table prompts"),
        (["ALTER TABLE runs RENAME COLUMN note TO memo"], "runs has no column note"),
        (["UPDATE alembic_version SET version_num = 'r0999'"], "this mlux knows up to"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_such_notebook_is_refused(
    two_files: tuple[Store, Store], statements: list[str], complaint: str
) -> None:
    other, target = two_files
    write_run(other)
    before = everything(target)
    other.close()
    assert other.path is not None
    altered(other.path, "DROP VIEW results", "DROP VIEW predictions", "DROP VIEW run_overview")
    altered(other.path, *statements)
    with pytest.raises(StoreError, match=complaint):
        merge(target, other.location)
    assert everything(target) == before


def test_another_run_of_the_same_name_is_refused(two_files: tuple[Store, Store]) -> None:
    other, target = two_files
    uid, mine = write_run(other), write_run(target, make_spec(experiment="mine"))
    with other.writing() as connection:
        connection.execute(sa.text("UPDATE runs SET uid = :mine"), {"mine": mine})
    before = runs_of(target)
    assert merge(target, other.location).refused == {mine: "It is another run there than here."}
    assert runs_of(target) == before
    assert uid not in before
