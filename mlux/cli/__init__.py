"""The command line: a thin root, and one file a command group."""

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The `mlux` command: as `mlux.cli.root.main`, and Ctrl-C while it is imported is one line."""
    try:
        from mlux.cli.root import main as command
    except KeyboardInterrupt:
        sys.stderr.write("Error: Interrupted.\n")
        sys.exit(130)
    command(arguments)
