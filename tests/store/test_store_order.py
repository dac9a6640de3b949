"""A run's metrics come back as its experiment declares them, whatever the notebook saw before."""

from pathlib import Path

import pandas as pd
import pytest
from fuzzing import everything, runs_of
from synthetic import METRICS, make_finished, make_spec, work, write_run

from mlux import compare
from mlux.export import export
from mlux.results import Metric, Values
from mlux.store import FinishedTrial, Store, create_run, load_run, schema
from mlux.store.deletion import delete_runs, restore_runs
from mlux.store.merge import merge
from mlux.store.soundness import check

NEW = Metric(name="effect", unit="", description="What only the second experiment has")
DECLARED = (NEW, *METRICS[::-1])
NAMES = [metric.name for metric in DECLARED]


def finished(trial: int) -> FinishedTrial:
    made = make_finished(trial)
    return FinishedTrial(trial=trial, results=[*made.results, Values(metric="effect", values=0.5)])


@pytest.fixture
def uid(store: Store) -> str:
    """A run whose metrics are, but for one, those of an earlier run, the other way round."""
    write_run(store)
    return write_run(store, make_spec(experiment="second", metrics=DECLARED), make=finished)


def shown(store: Store, uid: str) -> tuple[list[str], list[str], list[str]]:
    """The metrics of the run itself, and of its results the order of rows and of categories."""
    frame = compare.layer_results(uid, db=store)
    own = [metric.name for metric in load_run(store, uid).metrics]
    return own, list(frame["metric"].unique()), list(frame["metric"].cat.categories)


def test_they_come_as_declared_in_the_run_and_in_its_results(store: Store, uid: str) -> None:
    assert shown(store, uid) == (NAMES, NAMES, NAMES)
    frame = compare.layer_results(uid, db=store)
    for name in NAMES:  # each number still with its metric
        alone = compare.layer_results(uid, name, db=store).astype({"metric": "str"})
        part = frame[frame["metric"] == name].astype({"metric": "str"}).reset_index(drop=True)
        pd.testing.assert_frame_equal(part, alone)
    assert (frame.loc[frame["metric"] == "effect", "value"] == 0.5).all()


def test_of_several_runs_each_has_its_own_order(store: Store, uid: str) -> None:
    first = compare.runs(store, experiment="toy_lens")["run"][0]
    frame = compare.layer_results([uid, first], db=store)
    seen = frame[["run", "metric"]].astype(str).drop_duplicates()
    earlier = [metric.name for metric in METRICS]
    assert list(seen["metric"]) == [*earlier, *NAMES]
    assert list(frame["metric"].cat.categories) == [*earlier, "effect"]


def test_a_resume_and_the_bin_keep_the_order(store: Store) -> None:
    write_run(store)
    begun = create_run(store, make_spec(metrics=DECLARED))
    delete_runs(store, [begun])
    restore_runs(store, [begun])
    work(store, begun, range(4), make=finished)
    assert shown(store, begun) == (NAMES, NAMES, NAMES)
    assert check(store) == []


@pytest.mark.parametrize("to", ["sqlite", "postgresql"])
def test_a_merge_brings_the_order(
    store: Store, uid: str, to: str, request: pytest.FixtureRequest
) -> None:
    with Store.open(request.getfixturevalue("new_location")(to), write=True) as target:
        other = Metric(name="effect", unit="else", description="Of the same name")
        write_run(target, make_spec(metrics=(METRICS[2], other, *METRICS[:2], METRICS[3])))
        assert merge(target, store.location).refused == {}
        assert shown(target, uid) == (NAMES, NAMES, NAMES)
        assert runs_of(target)[uid] == runs_of(store)[uid]
        before = everything(target)
        merge(target, store.location)
        assert everything(target) == before


def test_an_export_has_the_order(store: Store, uid: str, tmp_path: Path) -> None:
    export(store, [uid], tmp_path / "tables", table_format="csv")
    listed = pd.read_csv(tmp_path / "tables" / "metrics.csv")
    assert list(listed["name"]) == NAMES
    rows = pd.read_csv(tmp_path / "tables" / "results.csv")
    assert list(rows["metric"].unique()) == NAMES
    export(store, [uid], tmp_path / "paper.db")
    with Store.open(tmp_path / "paper.db") as copy:
        assert shown(copy, uid) == (NAMES, NAMES, NAMES)


def test_a_revision_without_the_order_keeps_the_metrics(store: Store, uid: str) -> None:
    before = compare.layer_results(uid, db=store)
    schema.downgrade(store, "r0002")
    store.close()
    with Store.open(store.location, write=True) as again:
        earlier = [*(metric.name for metric in METRICS), "effect"]
        assert shown(again, uid) == (earlier, earlier, earlier)
        assert check(again) == []
        after = compare.layer_results(uid, db=again)
        assert sorted(map(str, after.values.tolist())) == sorted(map(str, before.values.tolist()))
        fresh = write_run(again, make_spec(metrics=DECLARED), make=finished)
        assert shown(again, fresh) == (NAMES, NAMES, NAMES)
