"""Without a browser the tests of pages are left out with one line, but never by what accepts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.conftest import MISSING, REQUIRED
from tools import browser

ROOT = Path(__file__).parents[2]
PAGES = ["-q", "-p", "no:randomly", "-k", "tampered or offline", "tests/report/test_report.py"]


def _pages_without_a_browser(nothing: Path, **variables: str) -> str:
    """What pytest says where no program is on the path and nothing was downloaded."""
    script = (
        "import pathlib, sys, pytest; from tools import browser; "
        f"browser.APPLICATIONS = (); browser.DOWNLOADS = pathlib.Path({str(nothing)!r}); "
        "sys.exit(pytest.main(sys.argv[1:]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, *PAGES],
        cwd=ROOT,
        env=os.environ | {"PATH": str(nothing), REQUIRED: ""} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout + ran.stderr


def test_without_a_browser_one_line_says_what_was_left_out(tmp_path: Path) -> None:
    said = _pages_without_a_browser(tmp_path)
    assert said.count(MISSING) == 1, said
    assert "skipped" in said
    assert "failed" not in said


def test_what_accepts_a_change_fails_without_a_browser(tmp_path: Path) -> None:
    assert f"export {REQUIRED}=1" in (ROOT / ".ci" / "run").read_text("utf-8")
    said = _pages_without_a_browser(tmp_path, **{REQUIRED: "1"})
    assert "skipped" not in said
    assert MISSING in said


def test_a_browser_that_does_not_start_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a download that lacks a library of the system does.
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(browser, "APPLICATIONS", ())
    monkeypatch.setattr(browser, "DOWNLOADS", tmp_path)
    assert browser.find() is None
    working = tmp_path / "chromium-1" / "linux" / "headless_shell"
    working.parent.mkdir(parents=True)
    working.write_text("#!/bin/sh\nexit 0\n")
    working.chmod(0o755)
    assert browser.find() == str(working)
