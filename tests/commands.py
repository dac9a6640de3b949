"""`mlux` typed in a process of its own, forked from one that has imported what commands import.

So a command costs what it does and not a second of imports, and is as much on its own as one that a
person types. `python commands.py` forks a child for each line of JSON on stdin: what is typed, in
which folder and environment, and the files for its stdout and stderr. It answers with how it ended.
"""

import atexit
import gc
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

# Whatever is not here is imported by the command that needs it, as ever.
WARM = (
    *("mlux.engine", "mlux.runner", "mlux.report", "mlux.charts", "mlux.cli.root"),
    *("altair", "alembic.command", "mlx_lm", "pandas", "rich.table", "scipy.stats"),
    *("sklearn.linear_model", "sqlalchemy", "statsmodels.api", "transformers"),
)


class Commands:
    """A process whose children are commands; it is started with the first of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """What `mlux ARGUMENT…` did, typed in that folder."""
        if self._process is None:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._process = subprocess.Popen([sys.executable, __file__], text=True, **pipes)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            said = [Path(folder, name) for name in ("out", "err")]
            job = [list(arguments), str(cwd), dict(environment), [str(path) for path in said]]
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            try:
                code = int(self._process.stdout.readline())
            except (
                BaseException
            ):  # stopped while it hung: what it says later is of no other command
                self.close()
                raise
            out, errors = (path.read_text("utf-8") for path in said)
        return subprocess.CompletedProcess(["mlux", *arguments], code, out, errors)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def become(cwd: str, environment: dict[str, str], said: list[str]) -> None:
    """Makes a child what a shell would have made it."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate((os.devnull, *said)):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)


def end(command: Callable[[list[str]], object], arguments: list[str]) -> NoReturn:
    """Runs the command and ends as Python does, but for taking every module apart."""
    code = 1
    try:
        command(arguments)
    except SystemExit as exit:
        code = int(exit.code or 0)
    except BaseException:  # noqa: BLE001 # a bug, which shows its traceback
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def main() -> None:
    from importlib import import_module

    from mlux.cli import main as command

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # as `mlux` does
    for name in WARM:
        import_module(name)
    gc.freeze()  # so that no child copies what it does not touch
    while line := sys.stdin.readline():
        arguments, cwd, environment, said = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become(cwd, environment, said)
            end(command, arguments)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
