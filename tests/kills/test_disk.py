"""A disk that fills up and a file that may no longer be written, in the middle of a run."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_kills import rows_of, without_uids

from mlux.runner import resume, run_experiment
from mlux.store import Store, list_runs, soundness

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

JOB = {"model": "demo", "prompts": "facts:96"}
TYPED = ["run", "logit_lens", "-m", "demo", "--prompts", "facts:96", "-p", "top_k=200"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB. Mounting needs the super-user, as whom containers run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def typed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlux.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def last_line(process: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in process.stderr
    return process.stderr.strip().splitlines()[-1]


def done_and_sound(db: Path) -> int:
    with Store.open(db) as store:
        assert soundness.check(store) == []
        return int(list_runs(store)[0]["done"])


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    db = small_disk / "mlux.db"
    stopped = typed("--db", db, *TYPED)
    assert stopped.returncode == 1
    assert last_line(stopped) == f"Error: Database {db}: database or disk is full."
    done = done_and_sound(db)
    assert 0 < done < 96
    again = typed("--db", db, "runs", "resume", "latest")
    assert again.returncode == 1
    assert "disk is full" in last_line(again)
    assert done_and_sound(db) >= done
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert typed("--db", db, "runs", "resume", "latest").returncode == 0
    whole = tmp_path / "whole.db"
    run_experiment("logit_lens", **JOB, params={"top_k": 200}, db=whole)
    assert without_uids(rows_of(db)) == without_uids(rows_of(whole))
    assert done_and_sound(db) == 96


AS_ANOTHER_USER = """
import os, sys
from mlux import run_experiment
from mlux.engine import HookedModel
from mlux.errors import MluxError
from mlux.store import RunWriter

model = HookedModel.from_pretrained("demo")
job = {"model": model, "prompts": "facts:96", "params": {"top_k": 200}, "batch_size": 2}
run_experiment("logit_lens", **job, db=sys.argv[2])  # imports everything while it may
if os.getuid() == 0:
    os.setuid(65534)  # the super-user, as whom containers run, may write everything
write = RunWriter.write

def write_and_lock(writer, batch):
    write(writer, batch)
    os.chmod(sys.argv[1], 0o444)
    os.chmod(os.path.dirname(sys.argv[1]), 0o555)

RunWriter.write = write_and_lock
for _ in range(2):
    try:
        print(run_experiment("logit_lens", **job, db=sys.argv[1]).status)
    except MluxError as error:
        print(error)
"""


def test_a_file_turned_read_only_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    # Not below pytest's own folder, which other users may not enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chown(folder, 65534, 65534)
        db = folder / "mlux.db"
        said = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER_USER, str(db), str(tmp_path / "warm.db")],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        # What is open may still be written, so the run under way may come to its end.
        first, second = said.stdout.splitlines()
        assert second == f"Cannot write to {db}: no permission."
        done = done_and_sound(db)
        assert done == 96 if first == "done" else 0 < done < 96
        folder.chmod(0o755)
        db.chmod(0o644)
        if done < 96:
            assert resume("latest", db=db).status == "done"
        assert done_and_sound(db) == 96
