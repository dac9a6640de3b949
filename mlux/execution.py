"""Working on a run: batch after batch through the model, each committed before the next begins.

A run can die at any instant and resumes with what is missing. Several processes may work on one:
each claims a batch before it computes it, so no trial is done twice.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from tqdm import tqdm

from mlux.batches import on_host_arrays, run_batch
from mlux.errors import RunError
from mlux.plan import Prepared, device_name
from mlux.provenance import environment
from mlux.results import Artifact
from mlux.steps import Arrays, Steps
from mlux.store.records import EndStatus, FinishedTrial
from mlux.store.session import Store
from mlux.store.writer import RunWriter


@dataclass(kw_only=True)
class Progress:
    """What this process has done of a run.

    Attributes:
        status: How it ended here.
        failed: The trials that failed here.
        seconds: Time spent computing.
        n_unsolved: As of `Prepared`.
    """

    status: EndStatus = "done"
    failed: list[FinishedTrial] = field(default_factory=list)
    seconds: float = 0.0
    n_unsolved: int | None = None


class StoredSteps(Steps):
    """Steps that a run keeps as artifacts, each committed when it is done.

    Args:
        writer: Of the run, started.
    """

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer

    def once(self, name: str, learn: Callable[[], Arrays], say: Callable[[Arrays], str]) -> Arrays:
        """As of `Steps`.

        Raises:
            StoreError: If the disk refuses.
        """
        found: Arrays | None = self._writer.artifact(name)
        if found is None:
            found = learn()
            self._writer.put_artifacts(
                [Artifact(name=name, kind="step", arrays=found)], learned=say(found)
            )
        return found


class TooManyFailuresError(RunError):
    """More trials failed than a run may have."""


def execute(
    store: Store,
    uid: str,
    prepared: Prepared,
    *,
    pending: Sequence[int],
    max_failures: int | None = None,
    progress: bool = False,
) -> Progress:
    """Computes what is pending of a run, as far as no other process does.

    Args:
        store: The notebook, open for writing.
        uid: The run.
        prepared: What it consists of.
        pending: The trials that are not done; those that others finish meanwhile are left to them.
        max_failures: Stop when more trials than this have failed.
        progress: Whether to show a progress bar on stderr.

    Raises:
        KeyboardInterrupt: After Ctrl-C, once the batch is stored; Ctrl-C again stops at once.
        RunError: If another process, that does not share it, works on the run.
    """
    from mlux.engine import memory
    from mlux.engine.vocabulary import Vocabulary

    model = prepared.model
    writer = RunWriter(store, uid, Vocabulary(model.tokenizer))
    writer.start(environment(device_name()), share=True)
    memory.reset_peak()
    begun, fires = time.perf_counter(), model.hook_fires
    prepared = replace(prepared, steps=StoredSteps(writer))
    done = Progress()

    def finish(status: EndStatus, error: str | None = None) -> None:
        done.status, done.seconds = status, time.perf_counter() - begun
        writer.finish(
            status,
            error=error,
            peak_memory_bytes=memory.peak(),
            hook_fires=model.hook_fires - fires,
            seconds=done.seconds,
        )

    try:
        with _stop_after_batch() as stopping:
            left = set(pending)
            for finished in _batches(prepared, writer, left, uid, progress):
                writer.write(finished)
                done.failed += [trial for trial in finished if trial.error is not None]
                _check_failures(done.failed, max_failures)
                left -= {trial.trial for trial in finished}
                if stopping and left:  # after the last batch there is nothing to stop
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        finish("crashed", "stopped by Ctrl-C")
        raise KeyboardInterrupt(
            f"Run {uid} is stopped. Go on with: mlux runs resume {uid}"
        ) from None
    except TooManyFailuresError as error:
        finish("failed", str(error))
        return done
    except BaseException as error:
        finish("failed", f"{type(error).__name__}: {error}")
        raise
    done.n_unsolved = prepared.n_unsolved
    finish("failed" if done.failed else "done", done.failed[0].error if done.failed else None)
    return done


def _check_failures(failed: Sequence[FinishedTrial], most: int | None) -> None:
    if most is not None and len(failed) > most:
        raise TooManyFailuresError(
            f"stopped after {len(failed)} failures, of at most {most}; the last: {failed[-1].error}"
        )


def _batches(
    prepared: Prepared, writer: RunWriter, left: set[int], uid: str, progress: bool
) -> Iterator[list[FinishedTrial]]:
    """What is left, batch by batch, computed as it would have been in one go.

    Batches that another process has claimed are passed over, and looked at once more in the end:
    should it have died, they are free again.
    """
    from mlux.engine import memory

    total = len(prepared.trials)
    with tqdm(
        total=total,
        initial=total - len(left),
        desc=f"{prepared.experiment.name} on {prepared.model.identity.name} [{uid}]",
        unit="trial",
        disable=not progress,
        dynamic_ncols=True,
    ) as bar:
        memory.seed(prepared.seed)
        _ = prepared.baselines
        fitted = prepared.fit()
        writer.put_artifacts([on_host_arrays(artifact) for artifact in fitted.artifacts])
        claimed_any = True
        while claimed_any:
            claimed_any = False
            for number, batch in enumerate(prepared.batches):
                wanted = [trial for trial in batch if trial in left]
                claimed = writer.claim(wanted) if wanted else []
                if claimed:
                    claimed_any = True
                    results = run_batch(prepared, fitted.state, number, batch)
                    yield [results[trial] for trial in claimed]
                    bar.update(len(claimed))


@contextmanager
def _stop_after_batch() -> Iterator[list[int]]:
    """Ctrl-C once fills the list, for the loop to stop after its batch; twice stops at once."""
    stopping: list[int] = []
    if current_thread() is not main_thread():  # only the main thread may handle signals
        yield stopping
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stopping:
            raise KeyboardInterrupt
        stopping.append(number)

    before: Any = signal.signal(signal.SIGINT, handle)
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGINT, before)
