"""Two runs on models of different depth, with doses and controls."""

from collections.abc import Iterator

import pytest
from made_up import Recorded, record

from mlux.store import Store


@pytest.fixture(scope="module")
def recorded_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """Two runs that nobody changes."""
    with Store.open(tmp_path_factory.mktemp("compare") / "mlux.db", write=True) as store:
        recorded = Recorded(store)
        for number, depth in enumerate(recorded.depths):
            record(recorded, number, depth)
        yield recorded
