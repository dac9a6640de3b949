"""Whatever is done to two notebooks in whatever order, they hold what a simple model says."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import runs_of
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from synthetic import (
    make_environment,
    make_finished,
    make_model,
    make_prompts,
    make_spec,
    token_text,
)

from mlux.export import export
from mlux.results import Artifact, Values
from mlux.store import (
    RunWriter,
    Store,
    artifacts,
    create_run,
    list_runs,
    load_run,
    note_run,
    tag_run,
)
from mlux.store.deletion import delete_runs, erase_runs, restore_runs
from mlux.store.garbage import collect_garbage
from mlux.store.merge import merge
from mlux.store.soundness import check

BOOKS = (0, 1)
NAMES = st.sampled_from(["paper", "kind", "é"])
VALUES = st.sampled_from(["fv", "", "1"])


@dataclass
class Known:
    """What must be true of a run in one notebook."""

    experiment: str
    n_trials: int
    tags: dict[str, str]
    note: str | None
    done: set[int] = field(default_factory=set)
    deleted: bool = False

    def copy(self) -> "Known":
        return replace(self, tags=dict(self.tags), done=set(self.done))


def arrays(trial: int) -> dict[str, np.ndarray[Any, Any]]:
    """Two of three runs' trials share the content of their artifacts."""
    return {"p": np.full(4, trial % 3)}


class Notebooks(RuleBasedStateMachine):
    """Two notebooks; subclasses say where."""

    places: Callable[[], list[str]]
    scratch: Path

    def __init__(self) -> None:
        super().__init__()
        self.stores = [Store.open(place, write=True) for place in type(self).places()]
        self.model: list[dict[str, Known]] = [{}, {}]
        self.exports = 0

    def teardown(self) -> None:
        for store in self.stores:
            assert check(store) == []
            store.close()

    def pick(self, book: int, index: int, **wanted: Any) -> str | None:
        """Some run of a notebook, the same for the same numbers."""
        found = [
            uid
            for uid, known in self.model[book].items()
            if all(getattr(known, name) == value for name, value in wanted.items())
        ]
        return found[index % len(found)] if found else None

    @initialize()
    def begin(self) -> None:
        """A run that both have, so that it is soon another in each."""
        self.create(book=0, experiment="lens", n=2, weights="aa", controls=False)
        self.merge(book=1)

    @rule(
        book=st.sampled_from(BOOKS),
        experiment=st.sampled_from(["lens", "heads"]),
        n=st.integers(1, 3),
        weights=st.sampled_from(["aa", "bb"]),
        controls=st.booleans(),
    )
    def create(self, book: int, experiment: str, n: int, weights: str, controls: bool) -> None:
        if len(self.model[book]) >= 3:
            return  # so that much happens to each
        conditions = [{}, {"site": "a", "control": "random"}] if controls else [{}]
        spec = make_spec(
            experiment=experiment,
            prompts=make_prompts(n),
            model=make_model(weights_hash=weights * 32),
            conditions=conditions,
            tags={},
            note=None,
        )
        uid = create_run(self.stores[book], spec)
        self.model[book][uid] = Known(experiment, len(spec.trials), {}, None)

    @rule(book=st.sampled_from(BOOKS), index=st.integers(0, 2), most=st.integers(1, 6))
    def work(self, book: int, index: int, most: int) -> None:
        uid = self.pick(book, index, deleted=False)
        if uid is None or len(self.model[book][uid].done) == self.model[book][uid].n_trials:
            return
        known = self.model[book][uid]
        writer = RunWriter(self.stores[book], uid, token_text)
        writer.start(make_environment())
        for trial in sorted(set(range(known.n_trials)) - known.done)[:most]:
            made = make_finished(trial)
            extra = Artifact(name="p", kind="patterns", arrays=arrays(trial))
            writer.write([replace(made, results=[*made.results, extra])])
            known.done.add(trial)
        writer.finish("done" if len(known.done) == known.n_trials else "crashed")

    @rule(
        book=st.sampled_from(BOOKS),
        index=st.integers(0, 2),
        tags=st.dictionaries(NAMES, VALUES, min_size=1),
    )
    def tag(self, book: int, index: int, tags: dict[str, str]) -> None:
        if uid := self.pick(book, index, deleted=False):
            tag_run(self.stores[book], uid, tags)
            self.model[book][uid].tags |= tags

    @rule(index=st.integers(0, 2), theirs=VALUES, first=st.sampled_from(BOOKS), note=st.booleans())
    def differ(self, index: int, theirs: str, first: int, note: bool) -> None:
        """Each side says something of the same run, and then they are merged."""
        both = set(self.model[0]) & set(self.model[1])
        uids = sorted(u for u in both if not (self.model[0][u].deleted or self.model[1][u].deleted))
        if not uids:
            return
        uid = uids[index % len(uids)]
        for book, tags in ((first, {"a": "1", "paper": "mine"}), (1 - first, {"b": theirs})):
            tag_run(self.stores[book], uid, tags)
            self.model[book][uid].tags |= tags
            if note:
                note_run(self.stores[book], uid, f"{book}")
                self.model[book][uid].note = f"{book}"
        self.merge(book=first)

    @rule(book=st.sampled_from(BOOKS), index=st.integers(0, 2))
    def untag(self, book: int, index: int) -> None:
        uid = self.pick(book, index, deleted=False)
        if uid and (tags := self.model[book][uid].tags):
            name = sorted(tags)[0]
            tag_run(self.stores[book], uid, {}, remove=[name])
            del tags[name]

    @rule(book=st.sampled_from(BOOKS), index=st.integers(0, 2), text=VALUES)
    def note(self, book: int, index: int, text: str) -> None:
        if uid := self.pick(book, index, deleted=False):
            note_run(self.stores[book], uid, text)
            self.model[book][uid].note = text or None

    @rule(book=st.sampled_from(BOOKS), index=st.integers(0, 2))
    def delete(self, book: int, index: int) -> None:
        if uid := self.pick(book, index):
            delete_runs(self.stores[book], [uid])
            self.model[book][uid].deleted = True

    @rule(book=st.sampled_from(BOOKS), index=st.integers(0, 2))
    def restore(self, book: int, index: int) -> None:
        if uid := self.pick(book, index, deleted=True):
            restore_runs(self.stores[book], [uid])
            self.model[book][uid].deleted = False

    @rule(book=st.sampled_from(BOOKS), index=st.integers(0, 2))
    def erase(self, book: int, index: int) -> None:
        if uid := self.pick(book, index):
            erase_runs(self.stores[book], [uid])
            del self.model[book][uid]

    @rule(book=st.sampled_from(BOOKS))
    def gc(self, book: int) -> None:
        collect_garbage(self.stores[book], older_than=timedelta(0))
        live = {uid: known for uid, known in self.model[book].items() if not known.deleted}
        self.model[book] = live
        there = {path.stem for path in artifacts.folder(self.stores[book]).glob("??/*")}
        with self.stores[book].reading() as connection:
            needed = connection.exec_driver_sql("SELECT DISTINCT sha256 FROM artifacts").scalars()
            assert there == set(needed)

    @rule(book=st.sampled_from(BOOKS))
    def merge(self, book: int) -> None:
        theirs = self.model[1 - book]
        done = merge(self.stores[book], self.stores[1 - book].location)
        assert done.refused == {}
        assert {*done.new, *done.completed, *done.same} == set(theirs)
        for uid, known in theirs.items():
            ours = self.model[book].setdefault(uid, known.copy())
            ours.done |= known.done
            ours.tags = known.tags | ours.tags
            ours.note = known.note if ours.note is None else ours.note

    @precondition(lambda self: any(self.model))
    @rule(book=st.sampled_from(BOOKS))
    def export(self, book: int) -> None:
        uids = [uid for uid, known in self.model[book].items() if not known.deleted][:2]
        self.exports += 1
        out = self.scratch / f"{id(self)}_{self.exports}.db"
        export(self.stores[book], uids, out)
        with Store.open(out) as copy:
            wanted = runs_of(self.stores[book])
            assert runs_of(copy) == {uid: wanted[uid] for uid in uids}
            assert check(copy) == []

    @invariant()
    def they_hold_what_the_model_says(self) -> None:
        for store, model in zip(self.stores, self.model, strict=True):
            live = {uid for uid, known in model.items() if not known.deleted}
            assert {run["run"] for run in list_runs(store)} == live
            found = runs_of(store)
            assert set(found) == set(model)
            for uid, known in model.items():
                run = load_run(store, uid)
                assert (run.experiment, run.tags, run.note) == (
                    *(known.experiment, known.tags, known.note),
                )
                assert set(run.pending) == set(range(known.n_trials)) - known.done
                assert (run.status == "done") == (not run.pending)
                assert (run.deleted_at is not None) == known.deleted
                parts = found[uid]
                assert parts["values"] == sorted(expected_values(known.done), key=repr)
                assert {row[0] for row in parts["texts"]} == known.done
                assert {row[0] for row in parts["files"]} == known.done


def expected_values(trials: set[int]) -> list[tuple[Any, ...]]:
    return [
        (made.metric, trial, *row)
        for trial in trials
        for made in make_finished(trial).results
        if isinstance(made, Values)
        for row in made.rows()
    ]


def run(machine: type[Notebooks], examples: int, steps: int) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call] # hypothesis has no types for it
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # to shrink what takes seconds would take minutes
            suppress_health_check=list(HealthCheck),
        ),
    )


def drive(machine: type[Notebooks], seed: int, steps: int) -> None:
    """As hypothesis would, with every step as probable as the others."""
    rng = random.Random(seed)
    state = machine()
    state.begin()
    for _ in range(steps):
        take_step(state, rng)
        state.they_hold_what_the_model_says()
    state.teardown()


def take_step(state: Notebooks, rng: random.Random) -> None:
    book, index, text = rng.choice(BOOKS), rng.randrange(3), rng.choice(["fv", "", "1"])
    steps: list[Callable[[], None]] = [
        lambda: state.create(book, "lens", 1 + index, rng.choice(["aa", "bb"]), index == 1),
        lambda: state.work(book, index, rng.randint(1, 4)),
        lambda: state.tag(book, index, {rng.choice(["paper", "kind", "é"]): text}),
        lambda: state.untag(book, index),
        lambda: state.note(book, index, text),
        lambda: state.differ(index, text, book, index == 0),
        lambda: state.delete(book, index),
        lambda: state.restore(book, index),
        lambda: state.restore(book, index),
        lambda: state.erase(book, index),
        lambda: state.gc(book),
        lambda: state.merge(book),
        lambda: state.merge(book),
        lambda: state.export(book),
    ]
    rng.choice(steps)()


@pytest.fixture
def two_files(empty_sqlite: Path, tmp_path: Path) -> type[Notebooks]:
    numbers = iter(range(10**6))

    def places() -> list[str]:
        return [str(shutil.copy(empty_sqlite, tmp_path / f"{next(numbers)}.db")) for _ in BOOKS]

    return type("TwoFiles", (Notebooks,), {"places": staticmethod(places), "scratch": tmp_path})


@pytest.fixture
def file_and_server(
    empty_sqlite: Path, empty_postgres: str, postgres: Any, tmp_path: Path
) -> type[Notebooks]:
    numbers = iter(range(10**6))

    def places() -> list[str]:
        number = next(numbers)
        # A folder of artifacts serves one database.
        os.environ["MLUX_ARTIFACTS"] = str(tmp_path / f"artifacts_{number}")
        file = shutil.copy(empty_sqlite, tmp_path / f"{number}.db")
        return [str(file), postgres.new(empty_postgres)]

    return type("Mixed", (Notebooks,), {"places": staticmethod(places), "scratch": tmp_path})


def test_two_files(two_files: type[Notebooks]) -> None:
    run(two_files, examples=4, steps=20)
    drive(two_files, seed=0, steps=60)


def test_a_file_and_a_server(file_and_server: type[Notebooks]) -> None:
    drive(file_and_server, seed=1, steps=40)


@pytest.mark.soak
def test_two_files_at_length(two_files: type[Notebooks]) -> None:
    run(two_files, examples=20, steps=40)
    for seed in range(10, 14):
        drive(two_files, seed=seed, steps=150)


@pytest.mark.soak
def test_a_file_and_a_server_at_length(file_and_server: type[Notebooks]) -> None:
    run(file_and_server, examples=4, steps=30)
    drive(file_and_server, seed=20, steps=150)
