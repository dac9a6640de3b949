"""The tests of pages run in a real browser; where none can be had they are left out, and said."""

import os
from collections.abc import Generator, Iterator

import pytest

from tests.report.browser import Browser, running
from tools import browser as program

REQUIRED = "MLUX_TESTS_REQUIRE_BROWSER"
"""Set by what accepts a change: there a missing browser is a failure."""

MISSING = "the tests of pages need a browser, and none could be had: see `make browser`"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A running headless browser."""
    found = program.find()
    if found is None:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(MISSING)
    with running(found) as opened:
        yield opened


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Gives all that are left out one place, so that pytest's summary has one line for them."""
    report = yield
    if report.skipped and MISSING in str(report.longrepr):
        report.longrepr = (__file__, None, MISSING)
    return report
