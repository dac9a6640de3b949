"""A PostgreSQL server of the tests' own, in a temporary folder, gone when they end.

Its programs are those of the package `postgresql`. It listens on a socket in its folder alone and
never waits for the disk: what it holds is worth nothing after the tests.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

WANTED = os.environ.get("MLUX_TEST_POSTGRES") != "0"
"""Whether the tests on PostgreSQL are collected; only a person who says so goes without."""

MISSING = (
    "The tests of the database run on a real PostgreSQL too; its programs initdb and pg_ctl are "
    "missing. Install them (Debian: apt-get install postgresql, macOS: brew install postgresql), "
    "or leave those tests out, and say so: MLUX_TEST_POSTGRES=0"
)
_HOMES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
)


class Postgres:
    """A running server that makes databases."""

    def __init__(self, socket_folder: Path) -> None:
        self._folder = socket_folder
        self._numbers = count()
        self._admin = sa.create_engine(
            self.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://mlux@/{database}?host={self._folder}"

    def new(self, template: str = "template0") -> str:
        """The URL of a new database: an empty one, or a copy of one of ours."""
        name = f"notebook_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.execute(f"DROP DATABASE {name_of(url)} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.exec_driver_sql(statement)


def name_of(url: str) -> str:
    """The database's name."""
    return str(sa.make_url(url).database)


@contextmanager
def serving() -> Iterator[Postgres]:
    """Starts a server, and stops it."""
    programs = _programs()
    # Not below pytest's folder, which another user may not enter; and a socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="mlux-pg-"))
    data, log = folder / "data", folder / "log"
    try:
        as_user = _unprivileged(folder)
        _run(
            [
                *(*as_user, str(programs / "initdb"), "--pgdata", str(data), "--username=mlux"),
                *("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"),
            ],
            log,
        )
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": folder,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": 200,
            "shared_buffers": "64MB",
        }
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        control = [*as_user, str(programs / "pg_ctl"), "--pgdata", str(data), "--wait"]
        _run([*control, "--log", str(log), "--options", options, "start"], log)
        try:
            yield Postgres(folder)
        finally:
            _run([*control, "--mode=immediate", "stop"], log)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    """The folder of the newest server that is installed."""
    homes = [Path(found).parent for found in [shutil.which("initdb")] if found]
    for pattern in _HOMES:
        found = Path("/").glob(pattern.removeprefix("/"))
        homes += sorted(found, key=lambda home: [int(n) for n in _numbers(home)], reverse=True)
    for home in homes:
        if (home / "initdb").exists() and (home / "pg_ctl").exists():
            return home
    pytest.fail(MISSING, pytrace=False)


def _numbers(home: Path) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in str(home)).split()


def _unprivileged(folder: Path) -> list[str]:
    """What to put before a command; PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return []
    # The package makes this user.
    shutil.chown(folder, user="postgres")
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


def _run(command: list[str], log: Path) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", text=True, check=False
    )
    if done.returncode:
        said = log.read_text() if log.exists() else ""
        pytest.fail(f"{' '.join(command)}:\n{done.stdout}{said}", pytrace=False)
