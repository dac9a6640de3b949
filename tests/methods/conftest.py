"""The built-in model, loaded once, and the tiny models of other families."""

import sys
from pathlib import Path

import pytest

from mlux.engine import HookedModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))  # for `tiny`


@pytest.fixture(scope="session")
def demo() -> HookedModel:
    return HookedModel.from_pretrained("demo")
