"""Two runs on models of different depth, with doses and controls, on SQLite and on PostgreSQL."""

from collections.abc import Iterator

import pytest
from made_up import Recorded, record
from postgres_server import Postgres

from mlux.store import Store


@pytest.fixture(scope="module")
def recorded_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """Two runs that nobody changes."""
    yield from recorded_at(str(tmp_path_factory.mktemp("compare") / "mlux.db"))


@pytest.fixture(scope="module")
def recorded_on_postgres(postgres: Postgres) -> Iterator[Recorded]:
    """The same on a server."""
    url = postgres.new()
    yield from recorded_at(url)
    postgres.drop(url)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def recorded_anywhere(request: pytest.FixtureRequest) -> Recorded:
    """The same on each."""
    name = "recorded_runs" if request.param == "sqlite" else "recorded_on_postgres"
    recorded: Recorded = request.getfixturevalue(name)
    return recorded


def recorded_at(location: str) -> Iterator[Recorded]:
    """The notebook at a location, open while it is used."""
    with Store.open(location, write=True) as store:
        recorded = Recorded(store, location)
        for number, depth in enumerate(recorded.depths):
            record(recorded, number, depth)
        yield recorded
