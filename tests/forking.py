"""Processes to kill: forked from one that has imported everything, so that each costs nothing.

`python forking.py CODE` runs the code, which defines `main`, then forks a child for each line of
JSON on stdin: the arguments, and the moment of its work (see `moments`) at which it dies, if it
does. It answers with how the child ended, and how many steps it took if it came to its end.
"""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import moments

Moment = tuple[str, int]
"""`before` or `amid`, and which step, from 1."""


class Forks:
    """A process that has run some code, and whose children run its `main`."""

    def __init__(self, code: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def _run(self, arguments: tuple[Any, ...], die: Moment | None) -> tuple[int, int]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([arguments, die]) + "\n")
        self._process.stdin.flush()
        ended, steps = self._answer()
        return ended, steps

    def steps(self, *arguments: Any) -> int:
        """Runs `main` to its end; how many steps its work has."""
        ended, steps = self._run(arguments, None)
        assert ended == 0
        return steps

    def kill(self, moment: Moment, *arguments: Any) -> None:
        """Runs `main` and kills it at this moment of its work."""
        ended, _ = self._run(arguments, moment)
        assert ended == -9, f"{moment} never came"

    def close(self) -> None:
        """Ends the process."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()


@contextmanager
def forks(code: str) -> Iterator[Forks]:
    """A process whose children can be killed, for as long as the block lasts."""
    process = Forks(code)
    try:
        yield process
    finally:
        process.close()


def spread(count: int, steps: int) -> list[Moment]:
    """So many moments, evenly from the first step to the last."""
    ways = cycle(("before", "amid"))
    return [(next(ways), 1 + number * steps // count) for number in range(count)]


def work(main: Callable[..., None], arguments: list[Any], die: Moment | None) -> int:
    """What a child does; how many steps it took."""
    steps: list[str] = []
    moments.each_step(steps.append)
    if die is None:
        main(*arguments)
    elif die[0] == "before":
        moments.signal_before(die[1])
        main(*arguments)
    else:
        with moments.dying_amid(die[1]):
            main(*arguments)
    return len(steps)


def main() -> None:
    scope: dict[str, Any] = {}
    exec(sys.argv[1], scope)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        arguments, die = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                steps = work(scope["main"], arguments, die)
                os.write(writer, str(steps).encode())
            except BaseException:  # noqa: BLE001 # whatever it was, the child ends here
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as said:
            steps = int(said.read() or 0)
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps([ended, steps]), flush=True)


if __name__ == "__main__":
    main()
