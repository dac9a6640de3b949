"""Finds a headless browser for the tests of pages, and gets one where that needs no question.

python -m tools.browser

In this order: one that is installed; Debian's, where apt-get may be run without asking (as root);
Playwright's own download, into the virtual environment. Where none can be had, the tests of pages
are left out, and this says why.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
APPLICATIONS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
DOWNLOADS = Path(sys.prefix) / "browsers"
"""Where Playwright's download is put: it goes when the virtual environment goes."""


def find() -> str | None:
    """The program of the first browser that starts, or nothing."""
    return next((program for program in _candidates() if _starts(program)), None)


def get() -> str | None:
    """The program of a browser, downloaded if need be, or nothing."""
    found = find()
    for commands in (_by_package_manager(), _by_playwright()):
        if not found:
            all(map(_done, commands))  # up to the first that fails
            found = find()
    return found


def _candidates() -> Iterator[str]:
    yield from filter(None, map(shutil.which, NAMES))
    yield from filter(os.path.exists, APPLICATIONS)
    yield from map(str, DOWNLOADS.glob("chromium*/*/*headless[-_]shell"))


def _starts(program: str) -> bool:
    """Whether it runs at all: a download may lack libraries of the system."""
    return _done([program, "--version"], quiet=True)


def _by_package_manager() -> list[list[str]]:
    if os.getuid() != 0 or not shutil.which("apt-get"):
        return []
    return [
        ["apt-get", "update", "-qq"],
        ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-yqq", "chromium"],
    ]


def _by_playwright() -> list[list[str]]:
    # Not in the extra `dev`: 50 MB that only a machine without a browser needs.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install = [sys.executable, "-m", "playwright", "install", "chromium-headless-shell"]
    return [[*pip, "playwright"], ["env", f"PLAYWRIGHT_BROWSERS_PATH={DOWNLOADS}", *install]]


def _done(command: list[str], *, quiet: bool = False) -> bool:
    """Runs a command; says what it said if it fails, unless that is no news."""
    ran = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if ran.returncode and not quiet:
        lines = ran.stdout.strip().splitlines()
        reason = next((line for line in lines if "rror" in line), "".join(lines[-1:]))
        print(f"{' '.join(command)}: {reason}", file=sys.stderr)
    return ran.returncode == 0


if __name__ == "__main__":
    print(get() or "No browser could be had; the tests of pages will be left out.")
