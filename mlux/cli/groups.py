"""Click groups that answer unknown names with close ones, and import a command only to run it."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from mlux.errors import UnknownNameError


def examples(*lines: str) -> str:
    """The end of a help page; the backspace is click's sign not to join the lines."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


class Group(click.Group):
    """A group of commands that knows what one may have meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command, or fails with the closest names."""
        choices = self.list_commands(ctx)
        if args[0] not in choices:
            ctx.fail(str(UnknownNameError("command", args[0], choices)))
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """A group that knows its commands by a table, and imports one when it is used.

    Args:
        commands: Name → one line of help, in the order of the help page. Command `x` is the
            object `command` of the module `mlux.cli.x`.
    """

    def __init__(self, *args: Any, table: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the table's order."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module."""
        if cmd_name not in self.table:
            return None
        found = import_module(f"mlux.cli.{cmd_name}").command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table; click's own method would import every command for its help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))
