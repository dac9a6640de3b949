"""Tests of pages need a browser; only a person who says so does without."""

import os

import pytest

OPT_OUT = "MLUX_TESTS_WITHOUT_CHROMIUM"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With the variable set, what needs a browser is left out, and the summary says so."""
    if not os.environ.get(OPT_OUT):
        return
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=f"{OPT_OUT} is set"))
