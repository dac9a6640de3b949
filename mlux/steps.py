"""What is learned before the first trial, step by step, so that a kill loses one step at most.

A search tries one candidate after the other, a lens is trained layer by layer: each is a step. A
run stores every step when it is done, with a sentence that says what came out, and a resume takes
from the run what is there. Where no run is at hand, as in a verification, every step is computed.
"""

from collections.abc import Callable, Mapping
from typing import Any

Arrays = Mapping[str, Any]
"""Name → NumPy array, or numbers that become one."""


class Steps:
    """Steps of learning that nothing keeps; those of a run are stored (`mlux.execution`).

    Example:
        >>> step = Steps().once(
        ...     "candidate.3", lambda: {"score": [0.5]}, lambda found: f"score {found['score'][0]}"
        ... )
        >>> step["score"]
        [0.5]
    """

    def once(self, name: str, learn: Callable[[], Arrays], say: Callable[[Arrays], str]) -> Arrays:
        """What a step gives: what the run has of it, else what is learned now and stored at once.

        Args:
            name: The step's name, unique within the run; also that of the artifact.
            learn: Computes it. It depends on the experiment's arguments alone, so that a resumed
                run has the same.
            say: What came out, in a sentence for the run's history.
        """
        return learn()


UNKEPT = Steps()
"""For whoever learns outside a run."""
