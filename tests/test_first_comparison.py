"""The newcomer's path: the commands of docs/first_comparison.md, typed as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOC = Path(__file__).parents[1] / "docs" / "first_comparison.md"
TEXT = DOC.read_text("utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.M | re.S)
COMMANDS = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]


def test_it_takes_ten_commands_or_fewer_and_every_picture_is_there() -> None:
    assert 5 <= len(COMMANDS) <= 10
    assert all(command.startswith("mlux ") for command in COMMANDS)
    for picture in re.findall(r"\]\((images/[^)]+)\)", TEXT):
        assert (DOC.parent / picture).stat().st_size < 300_000


@pytest.mark.slow
def test_the_commands_lead_from_an_empty_folder_to_the_report(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("MLUX_DB", "MLUX_EXPERIMENTS")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["COLUMNS"] = "80"
    said = []
    for command in COMMANDS:
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        said.append(done.stdout)
    (found,) = (out for out, command in zip(said, COMMANDS, strict=True) if "--top 1" in command)
    layer, *_, q = found.splitlines()[1].split()
    assert layer == "3"
    assert float(q) < 0.01
    assert (tmp_path / "entropy.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text("utf-8")
    for part in ("What do four bits a weight change?", "less sure after layer 3", "Olsson"):
        assert part in page
    assert re.search(r"entropy of demo-4bit minus demo: significant .* at layer 3", page)
