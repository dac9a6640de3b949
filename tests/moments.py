"""Moments of the work at which a process gets a signal, however fast or busy the machine is.

A moment is a step: an SQL statement, or a file renamed, removed or copied, or a folder made. The
rows of one `executemany` are one step.

`python moments.py SIGNAL NUMBER START ARGUMENT…` is `mlux ARGUMENT…` that gets the signal before
its NUMBER-th step that starts so.
"""

import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

FILE_STEPS = ("os.rename", "os.remove", "os.mkdir", "shutil.copyfile")
STEP_LENGTH = 24
"""Statements that begin alike for so many characters, one behind the other, are one step."""


def each_step(act: Callable[[str], object]) -> None:
    """Calls `act` before every step of this process from now on; it cannot be taken back."""
    last = [""]

    def statement(sql: str) -> None:
        step = " ".join(sql.split())
        if step[:STEP_LENGTH] != last[0]:
            last[0] = step[:STEP_LENGTH]
            act(step)

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = plain(*arguments, **options)
        connection.set_trace_callback(statement)
        return connection

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_STEPS and "__pycache__" not in str(arguments[0]):
            act(event)

    plain, sqlite3.connect = sqlite3.connect, connect  # type: ignore[assignment]
    sys.addaudithook(on_event)


def signal_before(number: int, *, start: str = "", kind: int = signal.SIGKILL) -> None:
    """Sends this process a signal before its `number`-th step that starts so, from 1."""
    left = [number]

    def act(step: str) -> None:
        if step.startswith(start):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), kind)

    each_step(act)


@contextmanager
def dying_amid(number: int) -> Iterator[None]:
    """Kills this process while its `number`-th step runs, or soon after; within the block."""
    left, begun = [number], threading.Event()

    def die() -> None:
        begun.wait()
        os.kill(os.getpid(), signal.SIGKILL)

    def act(step: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            begun.set()  # the thread runs as soon as SQLite, at work, leaves it the interpreter

    killer = threading.Thread(target=die, daemon=True)
    killer.start()
    each_step(act)
    yield
    if begun.is_set():  # it is about to happen
        killer.join()


if __name__ == "__main__":
    from mlux.cli import main

    name, count, beginning, *typed = sys.argv[1:]
    signal_before(int(count), start=beginning, kind=signal.Signals[name])
    main(typed)
