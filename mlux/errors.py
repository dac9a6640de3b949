"""What can go wrong that a person can mend.

The command line prints a `MluxError` as one line starting with `Error:`; any other exception is a
bug in mlux and shows its traceback. A message says what happened, what was seen and what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class MluxError(Exception):
    """The base of every error that mlux raises on purpose."""


class UnknownNameError(MluxError):
    """A name that mlux does not know, answered with the closest names that it does.

    Args:
        kind: What was looked for, as in `experiment` or `prompt set`.
        name: The name that was given.
        choices: The names that exist.
        hint: What to type to see the choices.
    """

    def __init__(self, kind: str, name: str, choices: Iterable[str], hint: str = "") -> None:
        known = sorted(set(choices))
        close = get_close_matches(name, known, n=3, cutoff=0.5)
        # Beside a name that is all but the same, one that is merely similar only distracts.
        close = get_close_matches(name, close, n=3, cutoff=0.75) or close
        if close:
            advice = "Did you mean " + " or ".join(repr(match) for match in close) + "?"
        elif known and len(known) <= 12:
            advice = "Known: " + ", ".join(known) + "."
        else:
            advice = hint
        super().__init__(f"No {kind} named {name!r}. {advice}".strip())
        self.kind, self.name, self.close_matches = kind, name, tuple(close)


class ExperimentError(MluxError):
    """An experiment's file that breaks a rule; the message begins with its place, `file:line:`."""


class ParameterError(MluxError):
    """A parameter that an experiment does not have, or a value of the wrong type or range."""


class PromptError(MluxError):
    """A prompt set that cannot be read, or a prompt that cannot be run on this model."""


class ModelError(MluxError):
    """A model that cannot be loaded, or that lacks what was asked of it."""


class HookError(MluxError):
    """A hook that names no module, never fired, or returned something of the wrong form."""


class StoreError(MluxError):
    """A database that cannot be opened, read or written."""


class RunError(MluxError):
    """A run that cannot be found, resumed or finished."""
