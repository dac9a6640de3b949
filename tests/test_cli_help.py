"""Every command explains itself, fits 80 columns and is in the README."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from mlux.cli.root import COMMANDS, cli

README = Path(__file__).parents[1] / "README.md"
# These do something instead of reading; what they print is not a result.
ACTIONS = {
    *("demo", "runs resume", "runs rerun", "runs tag", "runs note", "db upgrade", "plot", "report"),
    *("merge", "export"),
    *("runs delete", "runs restore", "db downgrade", "db backup", "db gc"),
    *("claim add", "claim edit", "claim delete"),
    *("prompts import", "prompts export"),
}


def _walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    if path:
        yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name="mlux")
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _walk(found, (*path, name))


ALL = dict(_walk(cli, ()))
LEAVES = {path: command for path, command in ALL.items() if not isinstance(command, click.Group)}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_at_the_root_is_the_commands_own(name: str) -> None:
    assert ALL[name].get_short_help_str(limit=100) == COMMANDS[name]


@pytest.mark.parametrize("path", ALL)
def test_every_command_has_help_with_an_example(path: str) -> None:
    command = ALL[path]
    assert command.help
    assert f"mlux {path}" in (command.epilog or "") or "mlux --db" in (command.epilog or "")


@pytest.mark.parametrize("path", LEAVES)
def test_every_option_has_help(path: str) -> None:
    for parameter in LEAVES[path].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


@pytest.mark.parametrize("path", ["", *ALL])
def test_help_fits_80_columns(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    command = ALL.get(path, cli)
    with command.make_context(f"mlux {path}".strip(), [], resilient_parsing=True) as context:
        context.max_content_width = 80  # a subcommand's context inherits this from the root's
        assert max(map(len, command.get_help(context).splitlines())) <= 80


@pytest.mark.parametrize("path", sorted(set(LEAVES) - ACTIONS))
def test_every_reading_command_prints_json(path: str) -> None:
    options = {option for parameter in LEAVES[path].params for option in parameter.opts}
    assert "--json" in options


@pytest.mark.parametrize("path", LEAVES)
def test_every_command_is_in_the_readme(path: str) -> None:
    assert f"mlux {path}" in README.read_text("utf-8")
