"""Draws the pictures of docs/first_comparison.md by typing its commands.

python -m tools.comparison_figures

Needs Chromium for the picture of the report.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOC = ROOT / "docs" / "first_comparison.md"
IMAGES = ROOT / "docs" / "images"
CHROMIUM = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--hide-scrollbars", "--window-size=1000,1180"),
)


def main() -> None:
    """Runs the commands in an empty folder; keeps the chart and the first screen of the report."""
    blocks = re.findall(r"^```sh\n(.*?)^```", DOC.read_text("utf-8"), re.M | re.S)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for block in blocks:
            subprocess.run(
                ["bash", "-euc", block], cwd=folder, env=os.environ | {"PATH": path}, check=True
            )
        shutil.copy(folder / "entropy.png", IMAGES / "first_comparison.png")
        page = (folder / "report.html").as_uri()
        target = f"--screenshot={IMAGES / 'report.png'}"
        profile = f"--user-data-dir={folder / 'profile'}"
        # Time for the charts, which the page draws when it has loaded.
        wait = "--virtual-time-budget=10000"
        subprocess.run([*CHROMIUM, profile, wait, target, page], check=True)


if __name__ == "__main__":
    main()
