"""A fresh notebook for each test, on both backends; `synthetic`, beside this folder, fills it."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import Postgres, name_of

from mlux.store import Store


@pytest.fixture(scope="session")
def empty_postgres(postgres: Postgres) -> str:
    """The name of a database with the schema and nothing in it, to be copied."""
    url = postgres.new()
    Store.open(url, write=True).close()
    return name_of(url)


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a file."""
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    Store.open(path, write=True).close()
    return path


@pytest.fixture
def location(backend: str, db: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Where an empty notebook of the newest schema is, on SQLite and on PostgreSQL."""
    if backend == "sqlite":
        yield str(shutil.copy(request.getfixturevalue("empty_sqlite"), db))
        return
    template = request.getfixturevalue("empty_postgres")
    server: Postgres = request.getfixturevalue("postgres")
    url = server.new(template)
    yield url
    server.drop(url)


@pytest.fixture(autouse=True)
def artifacts_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the artifacts of a server's database out of the home of whoever runs the suite."""
    monkeypatch.setenv("MLUX_ARTIFACTS", str(tmp_path / "artifacts"))


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Where a test's notebook is; nothing is there yet."""
    return tmp_path / "mlux.db"


@pytest.fixture
def store(location: str) -> Iterator[Store]:
    """An empty notebook, open for writing, on SQLite and on PostgreSQL."""
    with Store.open(location, write=True) as opened:
        yield opened


@pytest.fixture
def sqlite_store(db: Path, empty_sqlite: Path) -> Iterator[Store]:
    """The same in the file `db`, for what only SQLite has."""
    shutil.copy(empty_sqlite, db)
    with Store.open(db, write=True) as opened:
        yield opened


@pytest.fixture
def other() -> "Iterator[subprocess.Popen[bytes]]":
    """Another process, which lives until the test kills it."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()
