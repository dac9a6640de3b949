"""Fixtures that every part of the suite may use."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import postgres_server
import pytest
from commands import Commands
from hypothesis import HealthCheck, settings
from postgres_server import Postgres

import mlux.engine  # noqa: F401 # before any test imports MLX, which binds its BLAS at once

# Neither an example that takes long nor a slow draw of one is a failure; a store, once made, may
# serve all examples of a test.
settings.register_profile(
    "mlux",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("mlux")

Cli = Callable[..., subprocess.CompletedProcess[str]]
NewLocation = Callable[[str], str]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests on PostgreSQL, if a person said MLUX_TEST_POSTGRES=0."""
    if postgres_server.WANTED:
        return

    def on_postgres(item: pytest.Item) -> bool:
        given = getattr(item, "callspec", None)
        asked = getattr(item, "fixturenames", ())
        return "postgres" in asked or (given is not None and "postgresql" in given.params.values())

    config.hook.pytest_deselected(items=[item for item in items if on_postgres(item)])
    items[:] = [item for item in items if not on_postgres(item)]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; it is started when the first test asks for it."""
    with postgres_server.serving() as server:
        yield server


@pytest.fixture
def new_location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NewLocation]:
    """`new_location("sqlite")` is a path where nothing is yet, `"postgresql"` an empty database."""
    made: list[str] = []
    numbers = count()

    def new(backend: str) -> str:
        if backend == "sqlite":
            return str(tmp_path / f"notebook_{next(numbers)}.db")
        made.append(request.getfixturevalue("postgres").new())
        return made[-1]

    yield new
    for url in made:
        request.getfixturevalue("postgres").drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """A test that asks for it runs on both."""
    return str(request.param)


@pytest.fixture
def db_location(backend: str, new_location: NewLocation) -> str:
    """Where a test may put its notebook, on SQLite and on PostgreSQL; nothing is there yet."""
    return new_location(backend)


@pytest.fixture
def fresh_db(tmp_path: Path) -> Path:
    """Where a test may put its database; nothing is there yet."""
    return tmp_path / "fresh.db"


@pytest.fixture(scope="session")
def few_prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of four shipped prompts with all roles that the experiments ask for."""
    from mlux import prompts

    path = tmp_path_factory.mktemp("prompts") / "few.jsonl"
    chosen = prompts.load("ioi").prompts[:4]
    roles = ("text", "corrupted", "answer", "wrong_answer")
    lines = [json.dumps({role: getattr(prompt, role) for role in roles}) for prompt in chosen]
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory, few_prompts: Path) -> Path:
    """A database of `logit_lens` on `demo` and on `demo-4bit`, which nobody may change."""
    from mlux import run_experiment

    path = tmp_path_factory.mktemp("recorded") / "recorded.db"
    for model in ("demo", "demo-4bit"):
        run_experiment(
            "logit_lens", model=model, prompts=str(few_prompts), tags={"kind": "test"}, db=str(path)
        )
    return path


@pytest.fixture
def recorded_db(recorded: Path, tmp_path: Path) -> Path:
    """A copy of `recorded` that a test may change."""
    return Path(shutil.copy(recorded, tmp_path / "recorded.db"))


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Where commands are forked from."""
    made = Commands()
    yield made
    made.close()


@pytest.fixture
def cli(tmp_path: Path, commands: Commands) -> Cli:
    """`cli("runs", "list")` is `mlux runs list`, typed in an empty folder (or `cwd=`)."""
    home = tmp_path / "here"
    home.mkdir()
    # The suite must not depend on what the person who runs it has set, nor reach the network.
    own = ("MLUX_DB", "MLUX_EXPERIMENTS", "COLUMNS", "NO_COLOR", "FORCE_COLOR")
    environment = {k: v for k, v in os.environ.items() if k not in own} | {"HF_HUB_OFFLINE": "1"}

    def run(
        *arguments: str | Path, cwd: Path = home, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return commands.run([*map(str, arguments)], cwd, environment | variables)

    return run
