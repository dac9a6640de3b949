"""Parts of options that several commands share."""

from collections.abc import Sequence

import click

COUNT = click.IntRange(min=1, max=1_000_000_000)
"""A number of rows; SQLite's driver counts in 32 bits."""


def pairs(
    context: click.Context, parameter: click.Parameter, value: Sequence[str]
) -> dict[str, str]:
    """Turns repeated KEY=VALUE options into a mapping."""
    found: dict[str, str] = {}
    for entry in value:
        key, separator, text = entry.partition("=")
        if not (key and separator):
            raise click.BadParameter(f"{entry!r} is not KEY=VALUE.", context, parameter)
        if key in found:
            raise click.BadParameter(f"{key!r} is given twice.", context, parameter)
        found[key] = text
    return found
