"""Results read through Arrow are those read through sqlite3, and no lock is lost for it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic import make_finished, make_model, make_spec, write_run

from mlux import compare
from mlux.errors import UnknownNameError
from mlux.results import Values
from mlux.store import FinishedTrial, Store, arrow, create_run


def odd(trial: int) -> FinishedTrial:
    """Large numbers, positions, and nothing at all for one trial."""
    values = [[1.7e308, -1.7e308], [0.1 + 0.2, 5e-324]]
    results = [Values(metric="logit_diff", values=values, axes=("position", "head"))]
    return FinishedTrial(trial=trial, results=results if trial else [])


@pytest.fixture
def uids(sqlite_store: Store) -> list[str]:
    """Runs of two models and three conditions, one run without results."""
    conditions = [{}, {"site": "head"}, {"site": "head", "control": "random"}]
    made = [
        write_run(sqlite_store, make_spec(conditions=conditions)),
        write_run(
            sqlite_store, make_spec(model=make_model("big", n_layers=9), n_prompts=7), make=odd
        ),
        create_run(sqlite_store, make_spec()),
    ]
    sqlite_store.close()
    return made


def refuse(*_: Any) -> None:
    raise AssertionError("read through Arrow")


@pytest.mark.parametrize("metric", [None, "logit_diff", "accuracy"])
def test_both_ways_give_the_same_frame(
    db: Path, uids: list[str], monkeypatch: pytest.MonkeyPatch, metric: str | None
) -> None:
    reads = []
    whole = arrow.file_columns
    monkeypatch.setattr(arrow, "file_columns", lambda *a: reads.append(a) or whole(*a))  # type: ignore[func-returns-value] # it appends on the way
    fast = compare.layer_results(uids, metric, db)
    assert len(reads) == 1
    monkeypatch.setattr(arrow, "installed", lambda: False)
    slow = compare.layer_results(uids, metric, db)
    assert len(reads) == 1
    pd.testing.assert_frame_equal(fast, slow, check_exact=True)
    assert len(fast) == {None: 12 * 13 + 24, "logit_diff": 12 * 3 + 24, "accuracy": 12}[metric]
    first = fast[fast["run"] == uids[0]]
    wanted = [
        row
        for metric_name in ("answer_rank", "logit_diff", "head_score", "accuracy")
        if metric in (None, metric_name)
        for trial in range(12)
        for result in make_finished(trial).results
        if isinstance(result, Values) and result.metric == metric_name
        for row in result.rows()
    ]
    assert first["value"].tolist() == [value for *_, value in wanted]
    assert first["layer"].fillna(-1).tolist() == [layer for layer, *_ in wanted]
    kinds = {"value": "float64", "layer": "Int64", "head": "Int64", "position": "Int64"}
    assert {name: str(fast.dtypes[name]) for name in kinds} == kinds
    assert list(fast["model"].cat.categories) == (
        ["toy"] if metric == "accuracy" else ["toy", "big"]
    )


def test_runs_without_numbers_are_an_empty_frame(db: Path, uids: list[str]) -> None:
    frame = compare.layer_results(uids[2], db=db)
    assert frame.empty
    assert str(frame.dtypes["prompt"]) == "category"
    with pytest.raises(UnknownNameError, match="Did you mean 'accuracy'"):
        compare.layer_results(uids, "acuracy", db)


def test_a_file_that_this_process_has_open_is_not_read_through_arrow(
    db: Path, uids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = compare.layer_results(uids, db=db)
    monkeypatch.setattr(arrow, "file_columns", refuse)
    with pytest.raises(AssertionError, match="read through Arrow"):
        compare.layer_results(uids, db=db)
    for write in (False, True):
        with Store.open(db, write=write) as store, store.reading():
            pd.testing.assert_frame_equal(compare.layer_results(uids, db=db), fast)
            pd.testing.assert_frame_equal(compare.layer_results(uids, db=store), fast)
    with Store.open(db) as store, pytest.raises(AssertionError, match="read through Arrow"):
        compare.layer_results(uids, db=store)


OPEN_AND_CLOSE = """
import sys
from mlux.store import Store
with Store.open(sys.argv[1], write=True) as store, store.writing() as connection:
    connection.exec_driver_sql("UPDATE runs SET note = 'theirs'")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="locks as on POSIX")
@pytest.mark.parametrize("guarded", [True, False])
def test_another_process_sees_our_locks_after_a_read(
    db: Path, uids: list[str], guarded: bool
) -> None:
    # Whoever closes a database last removes its log; it is not the last while we have it open.
    with Store.open(db, write=True) as store, store.reading() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM runs").scalar_one()
        if guarded:
            compare.layer_results(uids, db=db)
        else:  # what would happen otherwise
            arrow.file_columns(db, "SELECT run_id FROM trials")
        subprocess.run([sys.executable, "-c", OPEN_AND_CLOSE, str(db)], check=True)
        assert db.with_name(f"{db.name}-wal").exists() == guarded
