"""Databases of every released revision come forward, and back again, with every row."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from synthetic import make_spec, work, write_run

from mlux.errors import UnknownNameError
from mlux.store import Store, list_runs, load_run, schema, session, soundness

GOLDEN = Path(__file__).with_name("golden")

Rows = dict[str, list[dict[str, Any]]]


def contents(path: Path) -> Rows:
    """Table → its rows, as mappings of column to value."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
            "AND name <> 'alembic_version' ORDER BY name"
        ).fetchall()
        return {
            name: list(map(dict, connection.execute(f"SELECT * FROM {name}"))) for (name,) in tables
        }


def statements(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {
            name: " ".join(sql.replace('"', "").split())
            for name, sql in rows
            if not name.startswith("sqlite_")
        }


def sorted_rows(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(map(repr, rows))


@pytest.fixture(params=sorted(path.stem for path in GOLDEN.iterdir()))
def revision(request: pytest.FixtureRequest) -> str:
    """Every revision but the newest."""
    return str(request.param)


@pytest.fixture
def old(revision: str, tmp_path: Path) -> Path:
    """A database of an old revision: finished, failed, queued and deleted runs, controls.

    From r0002 on also claims, shared runs, memory budgets, and metrics that two experiments share.
    """
    return Path(shutil.copy(GOLDEN / f"{revision}.db", tmp_path / "old.db"))


def n_shown(rows: Rows) -> int:
    """How many runs are not in the bin."""
    return sum(run["deleted_at"] is None for run in rows["runs"])


def test_every_revision_has_a_golden_database_but_the_newest() -> None:
    versions = {path.name[:5] for path in schema.migrations_folder().glob("versions/r*.py")}
    assert {path.stem for path in GOLDEN.iterdir()} == versions - {session.HEAD}


def test_an_old_database_comes_forward_with_every_row(old: Path) -> None:
    before = contents(old)
    assert sum(map(len, before.values())) > 10_000
    Store.open(old, write=True).close()
    after = contents(old)
    for table, rows in before.items():
        columns = list(rows[0]) if rows else []
        kept = [{name: row[name] for name in columns} for row in after[table]]
        if table in ("conditions", "condition_values"):  # where a controlled one is filed
            kept = kept[: len(rows)] if table == "conditions" else kept
        assert sorted_rows(kept) == sorted_rows(rows), table
    with closing(sqlite3.connect(old)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


@pytest.mark.parametrize("revision", ["r0001"], indirect=True)
def test_old_controls_find_what_they_control(old: Path) -> None:
    with Store.open(old, write=True) as store, store.reading() as connection:
        found = connection.exec_driver_sql(
            "SELECT DISTINCT condition, controls FROM results WHERE condition LIKE '%control%'"
        ).fetchall()
        labels = connection.exec_driver_sql(
            "SELECT c.label, o.label FROM conditions AS c "
            "JOIN conditions AS o ON o.id = c.controls_id"
        ).fetchall()
    assert found == [("site=head, control=random", "site=head")]
    assert set(labels) == {("site=head, control=random", "site=head"), ("control=zero", "")}


def test_metrics_of_old_runs_come_as_the_database_first_saw_them(old: Path) -> None:
    with closing(sqlite3.connect(old)) as connection:
        seen = connection.execute(
            "SELECT r.uid, k.name FROM runs AS r JOIN run_metrics AS m ON m.run_id = r.id "
            "JOIN metrics AS k ON k.id = m.metric_id ORDER BY r.uid, k.id"
        ).fetchall()
    with Store.open(old, write=True) as store:
        runs = {uid: [metric.name for metric in load_run(store, uid).metrics] for uid, _ in seen}
    assert len(runs) >= 5
    assert [(uid, name) for uid, names in runs.items() for name in names] == seen


def test_an_old_run_resumes_under_the_new_schema(old: Path) -> None:
    with Store.open(old, write=True) as store:
        (uid,) = (run["run"] for run in list_runs(store, status="failed"))
        work(store, uid, load_run(store, uid).pending)
        assert load_run(store, uid).status == "done"
        write_run(store, make_spec(memory_bytes=1 << 30))


def test_it_goes_back_with_every_row(old: Path, revision: str) -> None:
    before, made = contents(old), statements(old)
    with Store.open(old, write=True) as store:
        schema.downgrade(store, revision)
    after = contents(old)
    assert after.keys() == before.keys()
    for table, rows in before.items():
        if table == "conditions":
            assert all(row in after[table] for row in rows)
        else:
            assert sorted_rows(after[table]) == sorted_rows(rows), table
    assert statements(old) == made
    assert list(old.parent.glob(f"old.db.backup-{session.HEAD}-*"))
    with Store.open(old, write=True) as store:
        assert len(list_runs(store)) == n_shown(before)


def test_what_an_old_revision_cannot_hold_is_lost_on_the_way_back_and_nothing_else(
    db: Path,
) -> None:
    with Store.open(db, write=True) as store:
        spec = make_spec(
            conditions=[{"site": "head", "control": "random"}], memory_bytes=1000, rerun_of="abc"
        )
        uid = write_run(store, spec)
    before = contents(db)
    with Store.open(db, write=True) as store:
        schema.downgrade(store, "r0001")
    after = contents(db)
    assert after["layer_results"] == before["layer_results"]
    assert len(after["conditions"]) == 2
    with Store.open(db, write=True) as store:
        run = load_run(store, uid)
        assert (run.memory_bytes, run.rerun_of) == (None, None)
        assert run.trials == spec.trials
    assert contents(db)["conditions"] == before["conditions"]


def test_a_revision_that_never_was_is_no_way_back(store: Store) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'r0001'"):
        schema.downgrade(store, "r001")


UPGRADE = """
import sys
from mlux.store import Store, list_runs
with Store.open(sys.argv[1], write=True) as store:
    print(len(list_runs(store)))
"""


def test_processes_that_upgrade_it_at_once_all_work(old: Path, revision: str) -> None:
    shown = f"{n_shown(contents(old))}\n"
    command = [sys.executable, "-c", UPGRADE, str(old)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[0] for process in started] == [shown] * 4
    assert [process.returncode for process in started] == [0] * 4
    with Store.open(old) as store:
        wrong = soundness.check(store)
    # It came without the files of its artifacts; nothing else is wrong.
    assert [line.partition(" of run")[0] for line in wrong] == [
        "Artifact 'direction'",
        "Artifact 'pattern'",
        "Artifact 'pattern'",
    ]
    names = sorted(path.name.rpartition("-")[0] for path in old.parent.glob("old.db?*"))
    assert [name[: len("old.db.backup-r0000")] for name in names] == [f"old.db.backup-{revision}"]
