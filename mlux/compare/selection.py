"""What results can be grouped by."""

from collections.abc import Sequence

from mlux.errors import UnknownNameError

GROUPS = ("layer", "head", "position", "prompt", "condition", "model", "experiment")
"""What results can be grouped by."""


def groups_of(by: str | Sequence[str], among: Sequence[str] = GROUPS) -> list[str]:
    """The groups that a person means, each once.

    Raises:
        UnknownNameError: If one of them is no group.
    """
    groups = [by] if isinstance(by, str) else list(by)
    for name in groups:
        if name not in among:
            raise UnknownNameError("group", name, among)
    return list(dict.fromkeys(groups))
