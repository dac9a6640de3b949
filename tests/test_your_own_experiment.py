"""The tutorial's file and commands, as the page has them."""

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]  # the fixture of conftest.py

PAGE = Path(__file__).parents[1] / "docs" / "your_own_experiment.md"


def _block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(found) == 1, language
    return str(found[0])


@pytest.mark.slow
def test_the_tutorial_works_as_it_is_written(cli: Cli, tmp_path: Path) -> None:
    code = _block("python")
    assert len(code.splitlines()) <= 60
    folder = tmp_path / "my_experiments"
    folder.mkdir()
    (folder / "skipped_block.py").write_text(code, "utf-8")
    runs: list[str] = []
    for line in _block("sh").splitlines():
        command = [word if word != "demo_run" else runs[0] for word in shlex.split(line)]
        assert command[0] == "mlux"
        done = cli(*command[1:], cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        if " run " in line:
            runs.append(done.stdout.split("\t")[0])
    assert "control=random" in done.stdout
    (where,) = [n for n, text in enumerate(code.splitlines(), start=1) if "where: Lit" in text]
    broken = code.replace('help": "', '": "')
    (folder / "skipped_block.py").write_text(broken, "utf-8")
    refused = cli("--experiments", folder, "experiments", "skipped_block", cwd=tmp_path)
    assert refused.returncode == 1
    told = f"skipped_block.py:{where}: the option 'where' of SkippedBlockConfig has no help."
    assert told in refused.stderr
    assert told in PAGE.read_text("utf-8")
