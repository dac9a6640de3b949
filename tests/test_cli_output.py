"""What stdout carries: one table in four formats, safe to look at and exact to compute with."""

import csv
import io
import json
import sys
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlux.cli.layout import GAP, cells_width, fit
from mlux.cli.output import sentence, show_part, show_records, show_table

ROWS = [["a|b", 1, 0.1 + 0.2], ["[bold]x[/bold]\n\x1b[31m", None, float("nan")]]
COLUMNS = ["prompt", "layer", "value"]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """stdout is a terminal of 80 columns without colours."""
    monkeypatch.setattr("mlux.cli.table.on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def test_json_keeps_numbers_and_says_null_for_what_is_not_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_table(COLUMNS, ROWS, "json")
    first, second = json.loads(capsys.readouterr().out)
    assert first == {"prompt": "a|b", "layer": 1, "value": 0.1 + 0.2}
    assert second == {"prompt": "[bold]x[/bold]\n\x1b[31m", "layer": None, "value": None}


def test_json_knows_the_scalars_of_databases_and_pandas(capsys: pytest.CaptureFixture[str]) -> None:
    noon = datetime(2025, 1, 2, 12, tzinfo=UTC)
    row = [np.int64(3), np.float32(0.5), Decimal("1.5"), noon, b"\xff", (1, 2)]
    show_table(list("abcdef"), [row], "json")
    (found,) = json.loads(capsys.readouterr().out)
    assert list(found.values()) == [3, 0.5, 1.5, "2025-01-02T12:00:00+00:00", "ff", [1, 2]]


def test_json_loses_no_column_of_a_repeated_name(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["a", "a"], [[1, 2]], "json")
    assert json.loads(capsys.readouterr().out) == [{"a": 1, "a:2": 2}]


def test_csv_reads_back_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(COLUMNS, ROWS, "csv")
    header, first, second = csv.reader(io.StringIO(capsys.readouterr().out, newline=""))
    assert header == COLUMNS
    assert float(first[2]) == 0.1 + 0.2
    assert second[:2] == [ROWS[1][0], ""]


def test_markdown_escapes_its_own_sign(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(COLUMNS, ROWS[:1], "markdown")
    assert capsys.readouterr().out.splitlines() == [
        "| prompt | layer | value |",
        "| --- | --- | --- |",
        "| a\\|b | 1 | 0.3 |",
    ]


@pytest.mark.parametrize("output", ["table", "markdown"])
def test_no_cell_breaks_its_line_or_speaks_to_the_terminal(
    output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_table(["x"], [["a\nb\r\x1b[2J\x9b\u202e\u2028"]], output)
    shown = capsys.readouterr().out
    assert "a\\nb\\r\\x1b[2J\\x9b\\u202e\\u2028" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_a_pipe_gets_the_full_width(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["text", "n"], [["x" * 300, 1], ["y", 22]], "table")
    header, first, second = capsys.readouterr().out.splitlines()
    assert first == "x" * 300 + "   1"
    assert second == "y" + " " * 299 + "  22"
    assert header.startswith("text")


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_80_columns_with_whole_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["run", "prompt", "value"], [["01abcdef", "word " * 50, -12.345]], "table")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("01abcdef  word word")
    assert "…" in lines[-1]
    assert lines[-1].endswith("-12.35")


@pytest.mark.usefixtures("terminal")
def test_a_terminal_shows_markup_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["[red]x"], [["[bold]token[/bold]"]], "table")
    shown = capsys.readouterr().out
    assert "[red]x" in shown
    assert "[bold]token[/bold]" in shown


@pytest.mark.usefixtures("terminal")
def test_columns_that_do_not_fit_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    show_table([f"column{i}" for i in range(20)], [list(range(20))], "table")
    shown = capsys.readouterr()
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "column19" in shown.err


def test_an_empty_table_still_has_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    show_records([], "table", ("run", "status"))
    assert capsys.readouterr().out == "run  status\n"
    show_records([], "json", ("run", "status"))
    assert json.loads(capsys.readouterr().out) == []


def test_fields_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    show_part("run", {"note": "two\nlines", "seconds": 1.25, "tags": {"a": 1}})
    assert capsys.readouterr().out.splitlines() == [
        "run",
        "  note     two\\nlines",
        "  seconds  1.25",
        "  tags.a   1",
        "",
    ]


@given(st.lists(st.tuples(st.integers(1, 120), st.booleans()), min_size=1, max_size=12))
def test_a_fit_never_shortens_a_number_and_never_overflows(
    columns: list[tuple[int, bool]],
) -> None:
    natural = [width for width, _ in columns]
    numeric = [number for _, number in columns]
    widths = fit(natural, numeric, 80)
    assert 1 <= len(widths) <= len(columns)
    for width, full, number in zip(widths, natural, numeric, strict=False):
        assert width == full if number else 1 <= width <= full
    if len(widths) > 1 or not numeric[0]:
        assert sum(widths) + GAP * (len(widths) - 1) <= 80


def test_wide_characters_take_two_cells() -> None:
    assert cells_width("日本e\u0301") == 5


def test_a_long_cell_is_cut_for_eyes_only(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 1_000_000
    show_table(["text"], [[long]], "markdown")
    assert len(capsys.readouterr().out) < 20_000
    show_table(["text"], [[long]], "csv")
    assert long in capsys.readouterr().out


def test_a_note_of_many_words_is_wrapped_between_words_where_a_person_reads_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = "demo is not quantised, demo-4bit is quantised to 4 bits: " * 3
    sentence(text)
    assert capsys.readouterr().err == text + "\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    sentence(text)
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 40
    assert " ".join(lines).split() == text.split()


def test_records_inside_a_part_are_a_table_below_it_at_full_width_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = "word " * 40 + "end"
    unsolved = [{"prompt": long, "reason": "why"}, {"prompt": "b", "reason": "other"}]
    show_part("baseline", {"solved": 1, "unsolved": unsolved, "note": long})
    shown = capsys.readouterr().out
    assert shown.splitlines()[:4] == ["baseline", "  solved    1", f"  note      {long}", ""]
    assert shown.splitlines()[4:6] == ["baseline: unsolved", f"{'prompt'.ljust(len(long))}  reason"]
    assert f"{long}  why" in shown
