"""An option refuses the same values in Python and on the command line, each in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import mlux
from mlux import compare, runner, stats
from mlux.cli.root import cli
from mlux.errors import ParameterError
from mlux.limits import RANGES, check
from mlux.store import Store, list_runs, query

NO_NUMBERS = ("x", "", "nan", "inf", "-inf", "1e400")
RUN = ("run", "logit_lens", "--model", "demo")
DIFF = ("compare", "a", "b")


def run(**options: Any) -> None:
    mlux.run_experiment("logit_lens", model="demo", db=":absent:", **options)


def diff(**options: Any) -> None:
    compare.diff("a", "b", metric="m", db=":absent:", **options)


def again(**options: Any) -> None:
    with pytest.raises(ParameterError) as caught:
        runner.rerun("latest", db=":absent:", **options)
    runner.resume("latest", db=":absent:", **options)
    raise caught.value


# Range, the command with its option, the function with its argument, values out of range.
WHOLE = ("1.5", "-1", str(2**64))
TABLE: dict[str, tuple[str, tuple[str, ...], Callable[..., Any], tuple[str, ...]]] = {
    "run --seed": ("seed", (*RUN, "--seed"), run, (*WHOLE, str(2**31))),
    "run --batch-size": ("batch_size", (*RUN, "--batch-size"), run, (*WHOLE, "0", "65537")),
    "run --memory": ("memory", (*RUN, "--memory"), run, ("-1", "0", "0.5", str(2**64))),
    "run --max-failures": ("max_failures", (*RUN, "--max-failures"), run, WHOLE),
    "rerun": ("max_failures", ("runs", "rerun", "a", "--max-failures"), again, WHOLE),
    "resume": ("max_failures", ("runs", "resume", "a", "--max-failures"), again, WHOLE),
    "compare --seed": ("seed", (*DIFF, "--seed"), diff, (*WHOLE, str(2**31))),
    "compare --margin": ("margin", (*DIFF, "--margin"), diff, ("0", "-1")),
}


@pytest.mark.parametrize("option", TABLE)
def test_both_refuse_the_same_values(option: str) -> None:
    name, command, function, values = TABLE[option]
    for text in (*NO_NUMBERS, *values):
        with pytest.raises(click.BadParameter) as told:
            parse(*command, text)
        assert command[-1] in told.value.format_message()
        assert "\n" not in told.value.format_message()
        with pytest.raises(ParameterError) as raised:
            function(**{name: as_number(text)})
        assert str(raised.value).startswith(f"{name} is "), text
        assert "\n" not in str(raised.value)


def test_limits_of_rows_are_alike(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a.db", write=True) as store:
        for text in (*NO_NUMBERS, *WHOLE, "0"):
            value = as_number(text)
            for option in (("runs", "list", "--limit"), ("sql", "x", "--max-rows")):
                with pytest.raises(click.BadParameter):
                    parse(*option, text)
            with pytest.raises(ParameterError, match=r"^limit is .*; expected"):
                list_runs(store, limit=value)
            with pytest.raises(ParameterError, match=r"^limit is .*; expected"):
                compare.runs(store, limit=value)
            with pytest.raises(ParameterError, match=r"^max_rows is .*; expected"):
                query(store, "SELECT 1", max_rows=value)
        for text in (*NO_NUMBERS, "0", "-1", "86401"):
            with pytest.raises(click.BadParameter):
                parse("sql", "x", "--timeout", text)
            with pytest.raises(ParameterError, match=r"^seconds is "):
                query(store, "SELECT 1", seconds=as_number(text))


def test_what_only_python_takes_is_checked_by_the_same_table() -> None:
    for text in (*NO_NUMBERS, "0", "1", "-1"):
        for call in (
            lambda value: stats.power(0.5, 20, alpha=value),
            lambda value: stats.prompts_needed(0.5, alpha=value),
            lambda value: stats.prompts_needed(0.5, power=value),
            lambda value: diff(level=value),
        ):
            with pytest.raises(ParameterError, match="; expected a number above 0 and below 1"):
                call(as_number(text))
    for text in (*NO_NUMBERS, *WHOLE, "0"):
        with pytest.raises(ParameterError, match=r"^n_resamples is "):
            diff(n_resamples=as_number(text))
        with pytest.raises(ParameterError, match=r"^n is "):
            stats.power(0.5, as_number(text))


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_a_range_are_as_it_says(name: str) -> None:
    limits = RANGES[name]
    inside, outside = ([], [limits.low]) if limits.open else ([limits.low], [limits.low - 1])
    if limits.high is not None:
        (outside if limits.open else inside).append(limits.high)
        outside.append(limits.high + 1)
    check(name, None)
    for value in inside:
        check(name, value)
    for value in (*outside, True, float("nan"), float("inf"), "1", [1], 10**5000 * -1):
        with pytest.raises(ParameterError, match=f"^{name} is "):
            check(name, value)


def parse(*arguments: str) -> None:
    """Reads a command line as far as its options; nothing runs."""
    root = cli.make_context("mlux", list(arguments))
    command: Any = cli
    context, rest = root, list(arguments)
    while isinstance(command, click.Group):
        _, command, rest = command.resolve_command(context, rest)
        context = command.make_context(command.name, rest, parent=context)
        rest = [*context._protected_args, *context.args]


def as_number(text: str) -> Any:
    """What a person would write in Python for the text: a number where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
