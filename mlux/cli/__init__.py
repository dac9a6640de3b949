"""The command line: a thin root, and one file a command group."""

from mlux.cli.root import main as main

__all__ = ["main"]
