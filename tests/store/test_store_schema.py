"""The schema: one truth in two places, strict, and brought up to date without losing anything."""

import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from synthetic import make_environment, make_spec, token_text, write_run

from mlux.errors import StoreError
from mlux.store import (
    RunWriter,
    Store,
    create_run,
    drift,
    list_runs,
    load_run,
    schema,
    session,
)
from mlux.store.claims import add_claim
from mlux.store.tables import Base
from mlux.store.views import VIEWS


def schema_of(path: Path) -> dict[str, str]:
    """Name → the SQL that made it, white space aside and constraints in order."""
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        found = drift.statements(connection)
    engine.dispose()
    return found


def test_the_migrated_schema_is_that_of_the_tables(
    sqlite_store: Store, db: Path, tmp_path: Path
) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'tables.db'}")
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        for name, select in VIEWS.items():
            connection.exec_driver_sql(f"CREATE VIEW {name} AS {select}")
    engine.dispose()
    assert schema_of(db) == schema_of(tmp_path / "tables.db")


def test_every_table_is_strict_and_every_constraint_has_its_name(
    sqlite_store: Store, db: Path
) -> None:
    tables = {name: sql for name, sql in schema_of(db).items() if sql.startswith("CREATE TABLE")}
    assert set(tables) == set(Base.metadata.tables)
    for name, sql in tables.items():
        assert sql.endswith("STRICT"), name
        for unnamed in ("PRIMARY KEY", "UNIQUE", "CHECK", "FOREIGN KEY"):
            for part in sql.split(" | "):
                assert not part.startswith(unnamed), part
                assert unnamed not in part or re.match(r"CONSTRAINT \w{2}_\w+ ", part), part


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE runs SET seed = 'many'", "cannot store TEXT|invalid input syntax"),
        ("UPDATE runs SET model_id = 99", "FOREIGN KEY"),
        ("UPDATE runs SET status = 'finished'", "ck_runs_status_is_known"),
        ("UPDATE runs SET finished_at = NULL", "ck_runs_end_is_known"),
        ("UPDATE trials SET status = 'won'", "ck_trials_status_is_known"),
        ("UPDATE layer_results SET layer = -2", "ck_layer_results_place_is_valid"),
        ("UPDATE layer_results SET value = NULL", "NOT NULL|not-null"),
        ("UPDATE layer_results SET trial = 77 WHERE trial = 0", "FOREIGN KEY"),
        ("UPDATE runs SET memory_bytes = 0", "ck_runs_sizes_are_positive"),
        ("UPDATE runs SET seconds = -1", "ck_runs_costs_are_counts"),
        ("UPDATE conditions SET controls_id = id", "ck_conditions_control_is_another"),
        ("UPDATE trials SET worker = 0", "FOREIGN KEY"),
        ("UPDATE generations SET sample = -1", "ck_generations_place_is_valid"),
        ("INSERT INTO artifacts (run_id, name, kind, sha256, bytes) "
         "VALUES (1, 'a', 'vector', 'abc', 1)", "ck_artifacts_sha256_is_whole"),
        ("INSERT INTO artifacts (run_id, name, kind, sha256, bytes) SELECT 1, 'a', 'vector', "
         "code_hash, 1 FROM (SELECT code_hash FROM runs UNION ALL SELECT code_hash FROM runs) AS x",
         "UNIQUE"),
        ("UPDATE token_predictions SET rank = -1", "ck_token_predictions_place_is_valid"),
        ("INSERT INTO trials SELECT run_id, 50, prompt_id, condition_id, 'pending', NULL, NULL, "
         "NULL FROM trials WHERE trial = 0", "UNIQUE"),
        ("DELETE FROM models", "FOREIGN KEY"),
        ("UPDATE run_metrics SET place = -1 WHERE place = 0", "ck_run_metrics_place_counts_from_0"),
        ("UPDATE run_metrics SET place = 0 WHERE place = 1", "UNIQUE"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(store: Store, statement: str, complaint: str) -> None:
    write_run(store)
    refused = (sa.exc.IntegrityError, sa.exc.DataError)
    with pytest.raises(refused, match=f"(?i){complaint}"), store.writing() as connection:
        connection.exec_driver_sql(statement)


def test_deleting_a_run_deletes_what_is_its_own_and_nothing_else(store: Store) -> None:
    def counts() -> dict[str, int]:
        with store.reading() as connection:
            return {
                name: connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one()
                for name in Base.metadata.tables
            }

    kept = write_run(store)
    before = counts()
    gone = write_run(store)
    with store.writing() as connection:
        connection.execute(sa.text("DELETE FROM runs WHERE uid = :uid"), {"uid": gone})
    assert counts() == before
    assert [run["run"] for run in list_runs(store)] == [kept]


def test_the_first_revision_goes_back_to_nothing(store: Store) -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.migrations_folder()))
    with store.migrating() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with store.reading() as connection:
        found = sa.inspect(connection)
        assert found.get_table_names() == ["alembic_version"]
        assert found.get_view_names() == []


NEXT = """
from alembic import op
revision, down_revision, branch_labels, depends_on = "r0005", "r0004", None, None

def upgrade() -> None:
    op.execute("ALTER TABLE runs ADD COLUMN mood TEXT")
    {then}
"""


@pytest.fixture
def with_another_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if this mlux knew one more revision, whose file is returned."""
    folder = Path(shutil.copytree(schema.migrations_folder(), tmp_path / "later 100%"))
    monkeypatch.setattr(schema, "migrations_folder", lambda: folder)
    monkeypatch.setattr(session, "HEAD", "r0005")
    return folder / "versions" / "r0005_another.py"


def test_an_upgrade_keeps_the_data_and_a_backup_of_before(
    db: Path, request: pytest.FixtureRequest
) -> None:
    with Store.open(db, write=True) as store:
        uid = write_run(store)
    request.getfixturevalue("with_another_revision").write_text(NEXT.format(then=""))

    with pytest.raises(StoreError, match=r"at revision r0004; this mlux needs r0005.*db upgrade"):
        Store.open(db)
    with Store.open(db, write=True) as store, store.reading() as connection:
        rows = connection.exec_driver_sql("SELECT uid, mood FROM runs").fetchall()
    assert rows == [(uid, None)]

    (backup,) = db.parent.glob("mlux.db.backup-r0004-*")
    assert "mood" not in schema_of(backup)["runs"]
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("SELECT uid FROM runs").fetchall() == [(uid,)]
    assert sorted(path.name for path in db.parent.glob("mlux*")) == [db.name, backup.name]


def test_an_upgrade_that_fails_changes_nothing(db: Path, request: pytest.FixtureRequest) -> None:
    with Store.open(db, write=True) as store:
        write_run(store)
    before = schema_of(db)
    broken = NEXT.format(then="raise RuntimeError('half way')")
    request.getfixturevalue("with_another_revision").write_text(broken)
    with pytest.raises(RuntimeError, match="half way"):
        Store.open(db, write=True)
    assert schema_of(db) == before
    assert list(db.parent.glob("mlux.db?*")) == []  # no copy of what is as before


def test_an_upgrade_that_breaks_a_reference_changes_nothing(
    db: Path, request: pytest.FixtureRequest
) -> None:
    with Store.open(db, write=True) as store:
        write_run(store)
    before = schema_of(db)
    broken = NEXT.format(then='op.execute("DELETE FROM models")')
    request.getfixturevalue("with_another_revision").write_text(broken)
    with pytest.raises(StoreError, match="row of runs refers to nothing in models"):
        Store.open(db, write=True)
    assert schema_of(db) == before


def test_no_migration_overwrites_what_another_kept(db: Path) -> None:
    for claims in ([(1,)], [(0,)]):
        with Store.open(db, write=True) as store:
            if claims == [(1,)]:
                add_claim(store, "only a copy of before the way back has it")
            kept = schema.downgrade(store, "r0001")
        assert kept is not None
        with closing(sqlite3.connect(kept)) as connection:
            assert connection.execute("SELECT count(*) FROM claims").fetchall() == claims
    assert len(list(db.parent.glob("mlux.db.backup-r0004-*"))) == 2
    left = db.with_name("mlux.db.backup-r0001-20260101-000000.partial")
    left.write_text("of one that was killed")
    Store.open(db, write=True).close()
    assert len(list(db.parent.glob("mlux.db.backup-r0001-*"))) == 2
    assert not left.exists()


@pytest.mark.parametrize("share", [False, True])
def test_nothing_is_migrated_while_a_process_works(
    store: Store, share: bool, other: "subprocess.Popen[bytes]"
) -> None:
    uid = create_run(store, make_spec())
    environment = replace(make_environment(), pid=other.pid)
    RunWriter(store, uid, token_text).start(environment, share=share)
    message = f"now: process {other.pid} on .* works on run {uid}, and would fail"
    with pytest.raises(StoreError, match=message):
        schema.downgrade(store, "r0003")
    assert load_run(store, uid).status == "running"  # and every table is there
    other.kill()
    other.wait()
    schema.downgrade(store, "r0003")


def test_an_old_database_is_not_upgraded_while_a_process_works(
    tmp_path: Path, other: "subprocess.Popen[bytes]"
) -> None:
    old = Path(shutil.copy(Path(__file__).with_name("golden") / "r0001.db", tmp_path / "old.db"))
    with closing(sqlite3.connect(old)) as connection:
        connection.execute(
            "UPDATE runs SET status = 'running', host = ?, pid = ?, heartbeat_at = ? "
            "WHERE id = (SELECT max(id) FROM runs)",
            (socket.gethostname(), other.pid, "2999-01-01T00:00:00.000+00:00"),
        )
        connection.commit()
    with pytest.raises(StoreError, match="Cannot migrate"):
        Store.open(old, write=True)
    assert [path.name for path in tmp_path.glob("old.db*")] == ["old.db"]
    other.kill()
    other.wait()
    Store.open(old, write=True).close()


def test_a_run_whose_tables_were_migrated_all_the_same_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = create_run(store, make_spec())
    writer = RunWriter(store, uid, token_text)
    writer.start(make_environment(), share=True)
    monkeypatch.setattr(schema, "_refuse_while_running", lambda *_: None)
    with Store.open(_url(store), write=True) as second:
        schema.downgrade(second, "r0001")
    with pytest.raises(StoreError, match=r"migrated to revision r0001 .*mlux runs resume"):
        writer.claim([0])


def _url(store: Store) -> str:
    return str(store.path or store.engine.url.render_as_string(hide_password=False))


def test_the_documentation_is_that_of_the_tables() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tools.schema_doc", "--check"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
