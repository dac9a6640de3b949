"""Without a browser the tests of pages fail and say what to install; only a person may opt out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report import browser as chromium
from tests.report.conftest import OPT_OUT

ROOT = Path(__file__).parents[2]


def test_a_missing_browser_is_a_failure_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(AssertionError, match="apt-get install chromium"):
        chromium.find()


def test_only_the_documented_variable_leaves_them_out() -> None:
    assert OPT_OUT in (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert OPT_OUT not in (ROOT / ".ci" / "run").read_text("utf-8")
    assert OPT_OUT not in (ROOT / "Makefile").read_text("utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-k",
        "tampered",
        "tests/report/test_report.py",
    ]
    left_out = subprocess.run(
        command, cwd=ROOT, env=os.environ | {OPT_OUT: "1"}, capture_output=True, text=True
    )
    assert "1 skipped" in left_out.stdout
    assert OPT_OUT in left_out.stdout
