"""Signs of life while a batch computes, however long it takes.

Whether a process of this machine is alive, its number tells. Of a process on another machine only
what it writes is known, and a batch may take longer than anybody should wait to take over the run.
"""

from collections.abc import Callable
from threading import Event, Thread

from mlux.errors import StoreError

SECONDS = 30.0
"""Between two signs of life."""


class Heartbeat:
    """A thread that calls `beat` every `SECONDS` until it is stopped.

    Args:
        beat: Writes a sign of life. If the database cannot take it now, the next one will do; if
            the run is no longer ours, the next write of results says so.
    """

    def __init__(self, beat: Callable[[], object]) -> None:
        self._beat = beat
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="mlux heartbeat", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(SECONDS):
            try:
                self._beat()
            except StoreError:
                continue

    def stop(self) -> None:
        """Ends the thread, after the sign of life that it may be writing."""
        self._stopped.set()
        self._thread.join()
