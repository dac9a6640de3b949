"""`mlux compare`: what it refuses, how it orders, and that nothing in a prompt breaks its table."""

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from synthetic import make_model, make_spec, write_run

from mlux.cli.cells import cell
from mlux.cli.comparison import best_places
from mlux.cli.layout import cells_width, shortened
from mlux.cli.output import show_frame, show_table
from mlux.cli.root import _run
from mlux.cli.root import cli as root
from mlux.prompts import Prompt, PromptSet
from mlux.results import Values
from mlux.store import FinishedTrial, Store

HOSTILE = (
    "<script>alert(1)</script>",
    "line\nbreak\r\ttab\x1b[31mred\x1b]0;title\x07",
    "\u202eright-to-left\u202c \u200f\u2066mark\u2069",
    "👩‍👩‍👧‍👦 ❤️ 🇩🇪 👍🏽 日本語 é " + "a" + "\u0301" * 500,
    "x" * 100_000,
    "שלום עולם مرحبا | pipe `code` [bold]x[/bold]",
)


def hostile_prompts() -> PromptSet:
    return PromptSet(
        name="hostile", prompts=tuple(Prompt(text=text) for text in HOSTILE), description=""
    )


def numbers(shift: float, trial: int) -> FinishedTrial:
    values = [0.1 * layer + shift * (trial + 1) for layer in range(3)]
    results = [
        Values(metric="logit_diff", values=values, axes=("layer",)),
        Values(metric="head_score", values=[values, values], axes=("layer", "head")),
    ]
    return FinishedTrial(trial=trial, results=results)


@pytest.fixture
def notebook(tmp_path: Path) -> tuple[Path, list[str]]:
    """Three runs on hostile prompts, the last one by another model."""
    path = tmp_path / "mlux.db"
    models = [make_model(), make_model(), make_model("other", weights_hash="99" * 32)]
    with Store.open(path, write=True) as store:
        uids = [
            write_run(
                store,
                make_spec(prompts=hostile_prompts(), model=model, seed=seed),
                make=lambda trial, seed=seed: numbers(seed / 10, trial),
            )
            for seed, model in enumerate(models)
        ]
    return path, uids


def compare(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(root, ["--db", str(path), "compare", *arguments])


def rows(result: Result) -> list[dict[str, str]]:
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_statistics_say_what_they_are(notebook: tuple[Path, list[str]]) -> None:
    path, (a, b, _) = notebook
    found = compare(path, a, b, "--metric", "logit_diff", "--stats", "--seed", "7")
    assert found.exit_code == 0
    header = found.stdout.splitlines()[0].split()
    assert header == ["layer", "n", "estimate", "interval", "effect", "size", "p", "q"]
    assert "paired by prompt: BCa bootstrap, sign-flip test, Cohen's d_z" in found.stderr
    assert "95 % intervals, 9,999 resamples, seed 7; q: Benjamini–Hochberg over 3" in found.stderr
    assert "6 units are few" in found.stderr


def test_prompts_that_are_lost_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "mlux.db"
    with Store.open(path, write=True) as store:
        first = write_run(store, make_spec(n_prompts=8), make=lambda t: numbers(0.0, t))
        second = write_run(store, make_spec(n_prompts=6), make=lambda t: numbers(0.1, t))
    found = compare(path, first, second, "--metric", "logit_diff", "--stats")
    assert found.stdout.splitlines()[0].split()[:3] == ["layer", "n", "lost"]
    assert found.stdout.splitlines()[1].split()[1:3] == ["6", "2"]
    as_csv = ("--metric", "logit_diff", "--format", "csv")
    assert {row["n_lost"] for row in rows(compare(path, first, second, *as_csv))} == {"2"}


def test_quantised_models_are_compared_on_request_alone(recorded_db: Path) -> None:
    both = ("latest~1", "latest")
    refused = compare(recorded_db, *both)
    assert refused.exit_code == 1
    assert "demo is not quantised, demo-4bit is quantised to 4 bits" in str(refused.exception)
    assert "mlux compare --across-quantization" in str(refused.exception)
    allowed = compare(recorded_db, *both, "--across-quantization")
    assert allowed.exit_code == 0
    assert "part of a difference may be due to that" in allowed.stderr
    assert compare(recorded_db, *both, "--side-by-side").exit_code == 0


def test_runs_on_different_prompts_are_compared_unpaired_on_request(tmp_path: Path) -> None:
    path = tmp_path / "mlux.db"
    other = PromptSet(
        name="other", prompts=tuple(Prompt(text=f"other {i}") for i in range(5)), description=""
    )
    with Store.open(path, write=True) as store:
        first = write_run(store, make_spec(n_prompts=7), make=lambda t: numbers(0.0, t))
        second = write_run(store, make_spec(prompts=other), make=lambda t: numbers(0.3, t))
    refused = compare(path, first, second, "--metric", "logit_diff")
    assert "nothing can be paired. Compare them unpaired: mlux compare --unp" in str(
        refused.exception
    )
    found = compare(path, first, second, "--metric", "logit_diff", "--unpaired", "--stats")
    header, line, *_ = found.stdout.splitlines()
    assert header.split()[:3] == ["layer", "n", "n_b"]
    assert line.split()[:3] == ["0", "7", "5"]
    assert "permutation test" in found.stderr


def test_rows_are_sorted_and_cut(notebook: tuple[Path, list[str]]) -> None:
    path, (a, b, _) = notebook
    options = ("--metric", "logit_diff", "--by", "layer", "--format", "csv")
    descending = rows(compare(path, a, b, *options, "--sort=-layer"))
    assert [row["layer"] for row in descending] == ["2", "1", "0"]
    assert [row["layer"] for row in rows(compare(path, a, b, *options, "--sort", "layer"))] == [
        *("0", "1", "2"),
    ]
    assert len(rows(compare(path, a, b, *options, "--top", "2"))) == 2
    unknown = compare(path, a, b, *options, "--sort", "layr")
    assert "No column named 'layr'. Did you mean 'layer'?" in str(unknown.exception)


def test_without_an_order_the_top_rows_are_those_that_differ_most(tmp_path: Path) -> None:
    path = tmp_path / "mlux.db"

    def at(where: int, size: float, trial: int) -> FinishedTrial:
        values = [size * (1 + trial / 10) if layer == where else 0.0 for layer in range(3)]
        return FinishedTrial(
            trial=trial, results=[Values(metric="logit_diff", values=values, axes=("layer",))]
        )

    with Store.open(path, write=True) as store:
        runs = [
            write_run(store, make_spec(n_prompts=8), make=lambda t, w=w: at(w, float(w), t))
            for w in range(3)
        ]
    options = ("--metric", "logit_diff", "--top", "1", "--format", "csv")
    assert rows(compare(path, runs[0], runs[2], *options))[0]["layer"] == "2"
    assert rows(compare(path, *runs, *options))[0]["layer"] == "2"


def test_q_is_corrected_over_all_rows_that_are_shown_together(
    notebook: tuple[Path, list[str]],
) -> None:
    path, uids = notebook
    options = ("--metric", "logit_diff", "--stats", "--format", "csv")
    together = rows(compare(path, *uids, *options))
    assert [row["run"] for row in together] == [uids[1]] * 3 + [uids[2]] * 3
    from scipy import stats

    wanted = stats.false_discovery_control([float(row["p"]) for row in together])
    assert [float(row["q"]) for row in together] == pytest.approx(wanted.tolist())
    max_t = compare(path, uids[0], uids[1], *options, "--correction", "max-t", "--margin", "0.5")
    assert "step-down max-T over 3 tests" in max_t.stderr
    assert "q_equivalent" in rows(max_t)[0]


def test_the_best_is_marked_for_eyes_alone(recorded_db: Path) -> None:
    options = ("latest~1", "latest", "--side-by-side", "--metric", "answer_rank")
    shown = compare(recorded_db, *options)
    assert "* is best: answer_rank is better lower." in shown.stderr
    for line in shown.stdout.splitlines()[1:]:
        cells = line.split()[1:]
        values = [float(value.rstrip("*")) for value in cells]
        marked = [value for value, text in zip(values, cells, strict=True) if text.endswith("*")]
        assert marked == ([min(values)] if values[0] != values[1] else [])
    assert "*" not in compare(recorded_db, *options, "--format", "csv").stdout
    assert "*" not in compare(recorded_db, *options, "--json").stdout


def test_equals_are_all_best_or_none_is() -> None:
    import pandas as pd

    frame = pd.DataFrame({"x": [1.0, 2.0, None], "y": [1.0, 3.0, None], "z": [0.0, 3.0, None]})
    assert best_places(frame, "higher") == [(0, "x"), (0, "y"), (1, "y"), (1, "z")]
    assert best_places(frame, "lower") == [(0, "z"), (1, "x")]
    assert best_places(frame[["y"]], "higher") == [(1, "y")]
    assert best_places(frame, "neither") == []


@pytest.fixture(params=[20, 40, 80, 200])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """stdout is a terminal of so many columns, without colours."""
    monkeypatch.setattr("mlux.cli.table.on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(request.param))
    return int(request.param)


def plain(text: str) -> str:
    """Without the styles that mlux itself prints."""
    for style in ("\x1b[1m", "\x1b[0m"):
        text = text.replace(style, "")
    return text


@pytest.mark.parametrize("by", ["prompt", "layer,prompt", "layer"])
def test_no_prompt_breaks_the_table_of_a_comparison(
    notebook: tuple[Path, list[str]], terminal: int, by: str
) -> None:
    path, uids = notebook
    for runs in (uids[:2], uids):
        found = compare(path, *runs, "--metric", "logit_diff", "--by", by)
        assert found.exit_code == 0, found.output
        header, rule, *lines = plain(found.stdout).splitlines()
        assert len(lines) == (6 if "prompt" in by else 1) * (3 if "layer" in by else 1)
        assert set(rule) == {"─"}
        for line in (header, rule, *lines):
            assert cells_width(line) <= max(terminal, 22)  # a number is shown whole or not at all
            assert line.isprintable()


@pytest.mark.parametrize("output", ["table", "markdown"])
def test_hostile_cells_stay_in_their_columns(
    output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_table(["text", "n"], [[text, 7] for text in HOSTILE], output)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(HOSTILE) + (1 if output == "table" else 2)
    assert len({cells_width(line) for line in lines}) == 1 or output == "markdown"
    assert all(line.isprintable() for line in lines)
    if output == "markdown":
        assert all(line.replace("\\|", "").count("|") == 3 for line in lines)


def test_hostile_text_is_exact_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(["text"], [[text] for text in HOSTILE], "json")
    assert [row["text"] for row in json.loads(capsys.readouterr().out)] == list(HOSTILE)


def test_a_letter_carries_few_marks_and_an_emoji_has_one_width() -> None:
    assert cell("a" + "\u0301" * 500) == "a" + "\u0301" * 3
    assert cell("❤️") == "❤"
    assert cells_width("❤") == 1
    assert cells_width("👍") == 2
    assert cells_width("\u1100\u1161\u11a8") == 2  # one syllable of three letters
    assert cells_width("กำ้") == 2  # a Thai tone mark takes no cell
    assert "\\u200d" in cell("👩‍👧")


@pytest.mark.parametrize("width", range(1, 12))
def test_a_text_is_cut_to_its_cells(width: int) -> None:
    for text in ("日本語日本語", "abcdefghijklmn", "e\u0301" * 20, "👍" * 9):
        assert cells_width(shortened(text, width)) <= width
    assert shortened("abc", 3) == "abc"


def test_an_interval_is_shown_whole_or_not_at_all(
    notebook: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, uids = notebook
    monkeypatch.setattr("mlux.cli.table.on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "34")
    found = compare(path, *uids[:2], "--metric", "head_score", "--by", "layer,head")
    shown = plain(found.stdout)
    assert "…" not in shown
    assert "interval" in found.stderr
    assert "Not shown for want of width" in found.stderr


def test_a_frame_marks_by_the_name_of_its_column(capsys: pytest.CaptureFixture[str]) -> None:
    import pandas as pd

    show_frame(pd.DataFrame({"a": [1, 2], "b": [0.5, 0.25]}), "table", marks=[(1, "b")])
    assert capsys.readouterr().out.splitlines() == ["a     b", "1   0.5", "2  0.25*"]


def test_runs_joined_by_commas_are_replicates(tmp_path: Path) -> None:
    path = tmp_path / "mlux.db"
    models = [make_model(), make_model("other", weights_hash="99" * 32)]
    with Store.open(path, write=True) as store:
        sides = [
            [
                write_run(
                    store,
                    make_spec(n_prompts=7, model=model, seed=seed),
                    make=lambda t, seed=seed, shift=shift: numbers(seed / 10 + shift, t),
                )
                for seed in (1, 2)
            ]
            for shift, model in enumerate(models)
        ]
    a, b = (",".join(side) for side in sides)
    found = compare(path, a, b, "--metric", "logit_diff", "--format", "csv")
    assert [row["n"] for row in rows(found)] == ["7"] * 3
    # Shift 1, times the mean of trial + 1.
    assert [float(row["estimate"]) for row in rows(found)] == pytest.approx([4.0] * 3)
    mixed_up = compare(path, f"{sides[0][0]},{sides[1][1]}", b, "--metric", "logit_diff")
    assert "are no replicates: they differ in model" in str(mixed_up.exception)


def test_what_a_note_repeats_cannot_speak_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mlux.db"
    evil = "evil\x1b[2J\u202e"
    with Store.open(path, write=True) as store:
        uids = [
            write_run(
                store, make_spec(model=make_model(evil, weights_hash=f"{bits}" * 64, **width))
            )
            for bits, width in ((1, {}), (4, {"quant_bits": 4, "quant_group_size": 32}))
        ]
    found = compare(path, *uids, "--across-quantization", "--metric", "logit_diff")
    assert "evil\\x1b[2J\\u202e is not quantised" in found.stderr
    assert "\x1b[2J" not in found.stderr
    assert _run(["--db", str(path), "compare", *uids, "--metric", "logit_diff"]) == 1
    assert "\x1b" not in capsys.readouterr().err
