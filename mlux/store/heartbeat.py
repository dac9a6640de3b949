"""Signs of life while a batch computes, however long it takes.

Whether a process of this machine is alive, its number tells. Of a process on another machine only
what it writes is known, and a batch may take longer than anybody should wait to take over the run.
"""

import weakref
from collections.abc import Callable
from threading import Event, Thread

from mlux.errors import RunError, StoreError

SECONDS = 30.0
"""Between two signs of life."""


class Heartbeat:
    """A thread that calls a method every `SECONDS`, until it is stopped or its object is gone.

    Args:
        beat: Writes a sign of life. The thread ends if it raises a `RunError`, because the run is
            no longer ours; if the database cannot take it now, the next one will do.
    """

    def __init__(self, beat: Callable[[], object]) -> None:
        self._stopped = Event()
        # A writer that was given up must not live on in its thread.
        method = weakref.WeakMethod(beat, lambda _: self._stopped.set())
        self._thread = Thread(
            target=_run, args=(method, self._stopped), name="mlux heartbeat", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, after the sign of life that it may be writing."""
        self._stopped.set()
        self._thread.join()


def _run(method: "weakref.WeakMethod[Callable[[], object]]", stopped: Event) -> None:
    while not stopped.wait(SECONDS):
        beat = method()
        if beat is None:
            return
        try:
            beat()
        except RunError:
            return
        except StoreError:
            continue
        finally:
            del beat
