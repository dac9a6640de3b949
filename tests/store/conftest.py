"""A fresh notebook for each test; `synthetic`, beside this folder, fills it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlux.store import Store


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Where a test's notebook is; nothing is there yet."""
    return tmp_path / "mlux.db"


@pytest.fixture
def store(db: Path) -> Iterator[Store]:
    """An empty notebook, open for writing."""
    with Store.open(db, write=True) as opened:
        yield opened
