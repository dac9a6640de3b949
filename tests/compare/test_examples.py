"""The examples in the docstrings of `mlux.compare` and `mlux.stats` run on the example database."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import numpy as np
import pytest
from example_copy import copy_of_example

from mlux import compare, stats

ROOT = Path(__file__).parent.parent.parent
MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (compare, stats)
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the example database in the working directory."""
    copy_of_example(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize("name", MODULES)
def test_every_example_runs(name: str) -> None:
    result = doctest.testmod(
        importlib.import_module(name), extraglobs={"np": np}, optionflags=doctest.ELLIPSIS
    )
    assert result.failed == 0


@pytest.mark.parametrize("package", [compare, stats], ids=["compare", "stats"])
def test_every_public_function_has_an_example(package: object) -> None:
    names: list[str] = package.__all__  # type: ignore[attr-defined] # both say what is public
    functions = [name for name in names if inspect.isfunction(getattr(package, name))]
    assert len(functions) > 10
    for name in functions:
        assert ">>>" in (inspect.getdoc(getattr(package, name)) or ""), name
