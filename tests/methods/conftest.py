"""The built-in model, loaded once."""

import pytest

from mlux.engine import HookedModel


@pytest.fixture(scope="session")
def demo() -> HookedModel:
    return HookedModel.from_pretrained("demo")
