"""Threads and processes: runs off the main thread end well, a late fork is refused."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import sys
from mlux import run_experiment

def work(number):
    return run_experiment(
        "logit_lens", model="demo", prompts="facts:2", db=f"{sys.argv[1]}/{number}.db"
    ).status

"""
WAYS = {
    "thread": """
import threading
for number in range(2):
    thread = threading.Thread(target=work, args=(number,))
    thread.start()
    thread.join()
""",
    "pool": """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(2)
assert list(pool.map(work, range(4))) == ["done"] * 4
""",
    "asyncio": """
import asyncio

async def main():
    for number in range(2):
        assert await asyncio.to_thread(work, number) == "done"

asyncio.run(main())
""",
    "loop": """
import asyncio
loop = asyncio.new_event_loop()
for number in range(2):  # as a notebook does: the loop lives on, nobody closes its threads
    assert loop.run_until_complete(asyncio.to_thread(work, number)) == "done"
loop.close()
""",
}
FORK = """
import os, sys
from mlux.engine import HookedModel
from mlux.errors import ModelError
from mlux.plan import load_model
{before}
if os.fork() == 0:
    try:
        {inside}
    except ModelError as error:
        print(error, flush=True)
        os._exit(0)
    os._exit(7)
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "times", [2, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(1500)])]
)
@pytest.mark.parametrize("way", WAYS)
def test_runs_off_the_main_thread_leave_nothing_that_aborts(
    way: str, times: int, tmp_path: Path
) -> None:
    for time in range(times):
        folder = tmp_path / str(time)
        folder.mkdir()
        ended = python(RUN + WAYS[way], str(folder))
        assert (ended.returncode, ended.stderr) == (0, "")


def test_the_streams_of_a_thread_end_with_it() -> None:
    ended = python(
        """
import threading
import mlux.engine
import mlx.core as mx
from mlux.engine import HookedModel
cleared, clear = [], mx.clear_streams
mx.clear_streams = lambda: (cleared.append(threading.get_ident()), clear())
loaded = []
def work():
    loaded.append(HookedModel.from_pretrained("demo"))
    loaded[0].forward("mary lives in")
    loaded[0].forward("mary lives in")
    assert not cleared  # a thread may go on computing
thread = threading.Thread(target=work)
thread.start()
thread.join()
assert cleared == [thread.ident]
loaded[0].forward("paris is in")  # what one thread loaded, another may run
assert len(cleared) == 1
"""
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("before", "inside"),
    [
        ('model = HookedModel.from_pretrained("demo")', 'model.forward("mary lives in")'),
        ('load_model("demo", None)', 'HookedModel.from_pretrained("demo")'),
        ("import mlx.core as mx; mx.eval(mx.ones(9) + 1)", 'HookedModel.from_pretrained("demo")'),
    ],
)
def test_a_fork_after_mlx_computed_is_refused_in_one_line(before: str, inside: str) -> None:
    ended = python(FORK.format(before=before, inside=inside))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("MLX computed before this process was forked")
    assert "spawn" in ended.stdout
    assert ended.stdout.count("\n") == 1


def test_a_forked_process_files_no_run(tmp_path: Path) -> None:
    before = 'from mlux import run_experiment; load_model("demo", None)'
    inside = f'run_experiment("logit_lens", model="demo", db="{tmp_path}/a.db")'
    ended = python(FORK.format(before=before, inside=inside))
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "a.db").exists()


def test_a_fork_before_mlx_computed_works() -> None:
    ended = python(
        FORK.format(
            before="",
            inside='HookedModel.from_pretrained("demo").forward("mary lives in"); os._exit(0)',
        )
    )
    assert (ended.returncode, ended.stdout) == (0, "")
