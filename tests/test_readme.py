"""Every block of the README runs, in its order, in one folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)


def test_the_make_targets_exist() -> None:
    targets = [word for _, block in BLOCKS for word in re.findall(r"^make (\w+)", block, re.M)]
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
def test_every_block_runs(tmp_path: Path) -> None:
    own = ("MLUX_DB", "MLUX_EXPERIMENTS")
    environment = {key: value for key, value in os.environ.items() if key not in own}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def run(*command: str) -> str:
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{command[-1]}\n{result.stdout}{result.stderr}"
        return result.stdout

    for language, block in BLOCKS:
        if block.startswith("make "):
            continue
        if language == "sh":
            run("bash", "-euo", "pipefail", "-c", block)
        elif language == "sql":
            assert len(block.strip().splitlines()) <= 8
            answer = run("mlux", "sql", "--json", block)
            assert '"demo"' in answer
            assert '"demo-4bit"' in answer
        elif file := re.match(r"# (\S+\.py)\n", block):
            (tmp_path / file[1]).parent.mkdir(exist_ok=True)
            (tmp_path / file[1]).write_text(block)
        else:
            run(sys.executable, "-W", "error", "-c", block)
    assert "residual_norms" in run("mlux", "runs", "list")
