"""Opening: what is not ours is left alone, and looking leaves no trace."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from synthetic import write_run

from mlux.errors import StoreError
from mlux.store import Store, default_location, list_runs


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
        for path in folder.rglob("*")
    }


def text_file(path: Path) -> None:
    path.write_text("prompt,answer\n")


def folder(path: Path) -> None:
    path.mkdir()


def truncated(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\x00")


def of_another_program(path: Path, *, wal: bool = False) -> None:
    with closing(sqlite3.connect(path)) as connection:
        if wal:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE recipes (name TEXT)")


def in_use_by_another_program(path: Path) -> None:
    of_another_program(path, wal=True)


def of_mlflow(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE alembic_version (version_num TEXT);"
            "INSERT INTO alembic_version VALUES ('90e64c465722');"
            "CREATE TABLE runs (run_uuid TEXT); CREATE TABLE experiments (name TEXT);"
        )


def of_a_later_mlux(path: Path) -> None:
    with Store.open(path, write=True) as store, store.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'r0999'")


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (text_file, "it is not a SQLite database"),
        (folder, "it is a folder"),
        (truncated, "Cannot open"),
        (of_another_program, "database of another program"),
        (in_use_by_another_program, "database of another program"),
        (of_mlflow, "database of another program"),
        (
            of_a_later_mlux,
            "is at revision r0999; this mlux knows up to r0004. Upgrade mlux: pip install -U mlux.",
        ),
    ],
)
def test_what_is_not_ours_is_refused_and_left_as_it_was(
    db: Path, make: object, complaint: str, write: bool
) -> None:
    make(db)  # type: ignore[operator] # one of the functions above
    before = contents(db.parent)
    with pytest.raises(StoreError) as error:
        Store.open(db, write=write)
    assert complaint in str(error.value)
    assert str(db) in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(db.parent) == before


@pytest.mark.parametrize(
    ("location", "complaint"),
    [
        ("nowhere/mlux.db", "there is no folder '.*nowhere'"),
        ("", "path is empty"),
        ("sqlite://", "has to be a file"),
        ("mysql://host/db", "not mysql"),
        ("postgresql+nosuchdriver://host/db", "nosuchdriver"),
        ("what://", "not what"),
    ],
)
@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_a_place_that_cannot_be_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, complaint: str, write: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=complaint):
        Store.open(location, write=write)
    assert contents(tmp_path) == {}


def test_reading_what_is_not_there_creates_nothing(db: Path) -> None:
    with pytest.raises(StoreError, match=r"No database at .*Run an experiment first: mlux demo"):
        Store.open(db)
    assert contents(db.parent) == {}


def test_an_empty_file_is_a_new_database(db: Path) -> None:
    db.touch()
    with pytest.raises(StoreError, match="No database at"):
        Store.open(db)
    assert db.read_bytes() == b""
    with Store.open(db, write=True) as store:
        assert list_runs(store) == []


def test_reading_changes_no_byte_and_leaves_no_file(db: Path) -> None:
    with Store.open(db, write=True) as store:
        write_run(store)
    before = contents(db.parent)
    assert list(before) == [db.name]
    with Store.open(db) as store:
        assert len(list_runs(store)) == 1
        with pytest.raises(StoreError, match="opened for reading only"), store.writing():
            pass
    assert contents(db.parent) == before


AS_ANOTHER_USER = """
import os, sys
from mlux.errors import StoreError
from mlux.store import Store, list_runs, query

def look(path):
    with Store.open(path) as store:
        return len(list_runs(store)), query(store, "SELECT count(*) FROM runs")[1]

look(sys.argv[2])  # imports everything while it may
if os.getuid() == 0:
    os.setuid(65534)  # the super-user, as whom containers run, may write everything
print(look(sys.argv[1]))
try:
    Store.open(sys.argv[1], write=True)
except StoreError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_a_file_that_may_not_be_written_can_be_read(db: Path) -> None:
    with Store.open(db, write=True) as store:
        write_run(store)
    # Not below pytest's own folder, which other users may not enter.
    with tempfile.TemporaryDirectory() as name:
        locked = Path(shutil.copy(db, name))
        locked.chmod(0o444)
        locked.parent.chmod(0o555)
        before = contents(locked.parent)
        done = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER_USER, str(locked), str(db)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert contents(locked.parent) == before
        locked.parent.chmod(0o755)
    said = ["(1, [(1,)])", f"Cannot write to {locked}: no permission."]
    assert done.stdout.splitlines() == said, done.stderr


CREATE = """
import sys
from mlux.store import Store
with Store.open(sys.argv[1], write=True) as store, store.writing() as connection:
    connection.exec_driver_sql(
        "INSERT INTO experiments (name, description, paper) VALUES (?, '', '')", (sys.argv[2],)
    )
"""


def test_processes_that_create_it_at_once_all_work(db: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", CREATE, str(db), str(i)], stderr=subprocess.PIPE)
        for i in range(4)
    ]
    for process in started:
        assert process.communicate()[1] == b""
        assert process.returncode == 0
    with Store.open(db) as store, store.reading() as connection:
        names = connection.exec_driver_sql("SELECT name FROM experiments ORDER BY name").fetchall()
    assert names == [("0",), ("1",), ("2",), ("3",)]
    assert list(contents(db.parent)) == [db.name]


COUNT = """
import sys
from mlux.store import Store, list_runs
with Store.open(sys.argv[1]) as store:
    print(len(list_runs(store)))
"""


def test_opening_it_twice_does_not_drop_the_locks_of_the_first(db: Path) -> None:
    # POSIX drops a process's locks on a file when any handle of it is closed; a second process
    # then believes itself alone, deletes the log, and commits of the first go nowhere.
    with Store.open(db, write=True) as first:
        write_run(first)
        Store.open(db).close()
        subprocess.run([sys.executable, "-c", CREATE, str(db), "theirs"], check=True)
        write_run(first)
        seen = subprocess.run(
            [sys.executable, "-c", COUNT, str(db)], capture_output=True, text=True, check=True
        )
    assert seen.stdout == "2\n"
    with Store.open(db) as store:
        assert len(list_runs(store)) == 2


def test_reading_needs_neither_migrations_nor_pandas_nor_mlx(db: Path) -> None:
    with Store.open(db, write=True) as store:
        write_run(store)
    code = (
        "import sys\nfrom mlux.store import Store, list_runs\n"
        "with Store.open(sys.argv[1]) as store: list_runs(store)\n"
        "heavy = 'alembic pandas numpy mlx mlx_lm sqlalchemy.orm mlux.prompts'.split()\n"
        "print(sorted(set(heavy) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(db)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_default_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLUX_DB", raising=False)
    assert default_location() == "mlux.db"
    monkeypatch.setenv("MLUX_DB", "sqlite:////data/lab.db")
    assert default_location() == "sqlite:////data/lab.db"


def test_a_url_of_sqlite_is_a_file(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/by%20url.db", write=True) as store:
        assert store.path == tmp_path / "by url.db"
        assert "revision='r0004'" in repr(store)


@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_a_revision_that_never_was_is_refused_without_a_backup(db: Path, write: bool) -> None:
    with Store.open(db, write=True) as store, store.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'r0000'")
    with pytest.raises(StoreError, match="says revision r0000, which no mlux had"):
        Store.open(db, write=write)
    assert not list(db.parent.glob("*backup*"))
