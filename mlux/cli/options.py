"""Parts of options that several commands share."""

import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from mlux.errors import ParameterError
from mlux.limits import RANGES, check


class Limited(click.ParamType[float]):
    """A number in the range that `mlux.limits` gives an option; Python checks it by the same."""

    def __init__(self, option: str) -> None:
        self.option, self.range = option, RANGES[option]
        self.name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number that a text says."""
        try:
            number = int(value) if self.range.whole else float(value)
            check(self.option, number)
        except (ValueError, ParameterError):
            self.fail(f"{str(value)[:60]!r} is not {self.range}.", param, ctx)
        return number


_UNITS = {"": 1, "B": 1} | {
    prefix + unit: base**power
    for power, prefix in enumerate("KMGT", start=1)
    for unit, base in (("", 1024), ("B", 1000), ("IB", 1024))
}


class Size(click.ParamType[int]):
    """A number of bytes, as in 500MB or 2GiB."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes that a text says."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Z]*)", str(value).strip().upper())
        if match is None or match[2] not in _UNITS or float(match[1]) * _UNITS[match[2]] < 1:
            self.fail(f"{value!r} is no size; write one as in 500MB or 2GiB.", param, ctx)
        size = int(float(match[1]) * _UNITS[match[2]])
        if not RANGES["memory"].holds(size):
            self.fail(f"{value!r} is not {RANGES['memory']} bytes.", param, ctx)
        return size


SIZE = Size()


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


def columns_of(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> dict[str, str] | None:
    """Turns ROLE=COLUMN,ROLE=COLUMN into a mapping."""
    return None if value is None else pairs(context, parameter, value.split(","))


yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def make_sure(question: str, yes: bool) -> None:
    """Goes on if a person says yes; where nobody can be asked, only if `--yes` was given."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.ClickException("Nobody is there to be asked; add --yes. Nothing was changed.")
    if not click.confirm(question, err=True):
        raise click.ClickException("Nothing was changed.")
