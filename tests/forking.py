"""Processes to kill: forked from one that has imported everything, so that each costs nothing.

`python forking.py CODE` runs the code, which defines `main`, then forks a child for each line of
JSON arguments on stdin. It prints the child's pid, waits for it, and prints how it ended.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from typing import Any


class Forks:
    """A process that has run some code, and whose children run its `main`."""

    def __init__(self, code: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def run(self, *arguments: Any, kill_after: float | None = None) -> int:
        """Runs `main` in a child, killed after so many seconds; how it ended, -9 if killed."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        pid = int(self._line())
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):  # it may have come to its end
                os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(int(self._line()))

    def seconds(self, *arguments: Any) -> float:
        """How long an undisturbed child takes."""
        begun = time.perf_counter()
        assert self.run(*arguments) == 0
        return time.perf_counter() - begun

    def close(self) -> None:
        """Ends the process."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()


def moments(count: int, seconds: float, seed: int) -> list[float]:
    """Random instants, up to a little beyond the end."""
    generator = random.Random(seed)
    return [generator.uniform(0, 1.1 * seconds) for _ in range(count)]


def main() -> None:
    scope: dict[str, Any] = {}
    exec(sys.argv[1], scope)
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                scope["main"](*json.loads(line))
            except BaseException:  # noqa: BLE001 # whatever it was, the child ends here
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
