"""Commands do what their help says; stdout is for results, stderr for people."""

import csv
import io
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest

from mlux.cli.compare import AXES
from mlux.cli.options import pairs

MOMENTS = Path(__file__).with_name("moments.py")
Cli = Callable[..., "subprocess.CompletedProcess[str]"]  # the fixture of conftest.py


def _json(finished: "subprocess.CompletedProcess[str]") -> "list[dict[str, object]]":
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert isinstance(found, list | dict)
    return found if isinstance(found, list) else [found]


def test_a_run_is_filed_listed_shown_and_asked(cli: Cli, fresh_db: Path, few_prompts: Path) -> None:
    ran = cli(
        "--db", fresh_db, "run", "logit_lens", "--model", "demo", "--prompts", few_prompts,
        "-p", "top_k=2", "--tag", "paper=draft", "--note", "first try", "--batch-size", 2,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    uid, experiment, model, status = ran.stdout.rstrip("\n").split("\t")
    assert (experiment, model, status) == ("logit_lens", "demo", "done")
    assert "logit_lens on demo" in ran.stderr

    (listed,) = _json(cli("--db", fresh_db, "runs", "list", "--json", "--tag", "paper=draft"))
    assert listed["run"] == uid
    assert (listed["trials"], listed["done"], listed["note"]) == (4, 4, "first try")
    assert not _json(cli("--db", fresh_db, "runs", "list", "--json", "--tag", "paper=final"))

    (shown,) = _json(cli("--db", fresh_db, "runs", "show", uid[:6], "--json"))
    assert shown["params"] == {"positions": "last", "streams": ["resid_post"], "top_k": 2}
    assert "first try" in cli("--db", fresh_db, "runs", "show", "latest").stdout

    question = "SELECT count(*) AS n FROM predictions"
    (answer,) = _json(cli("--db", fresh_db, "sql", question, "--json"))
    (model_row,) = _json(cli("--db", fresh_db, "models", "list", "--json"))
    assert answer == {"n": 4 * 2 * int(str(model_row["n_layers"]))}


def test_several_experiments_and_models_make_one_run_each(
    cli: Cli, fresh_db: Path, few_prompts: Path
) -> None:
    ran = cli(
        "--db", fresh_db, "run", "logit_lens", "direct_logit_attribution", "--prompts", few_prompts,
        "--model", "demo", "--model", "demo-4bit", "--json",
    )  # fmt: skip
    made = {(run["experiment"], run["model"]) for run in _json(ran)}
    names = ("logit_lens", "direct_logit_attribution")
    assert made == {(name, model) for name in names for model in ("demo", "demo-4bit")}


def test_a_dry_run_plans_and_leaves_nothing(cli: Cli, tmp_path: Path, few_prompts: Path) -> None:
    planned = cli(
        "run", "logit_lens", "--model", "demo", "--prompts", few_prompts, "--dry-run", "--json"
    )
    (plan,) = _json(planned)
    assert (plan["n_prompts"], plan["n_trials"]) == (4, 4)
    assert plan["bytes"]
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.slow
def test_ctrl_c_is_one_line_keeps_what_is_done_and_resume_adds_the_rest(
    cli: Cli, fresh_db: Path
) -> None:
    job = ("run", "activation_patching", "--model", "demo", "--prompts", "ioi:6")
    options = ("-p", "sites=attn_out", "--batch-size", "1")
    second_batch = ("SIGINT", "2", "UPDATE trials SET status = 'done'")
    stopped = subprocess.run(
        [sys.executable, MOMENTS, *second_batch, "--db", fresh_db, *job, *options],
        capture_output=True,
        text=True,
    )
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert "Traceback" not in stopped.stderr
    (said,) = [line for line in stopped.stderr.splitlines() if line.startswith("Error: ")]
    assert "Go on with: mlux runs resume" in said

    (listed,) = _json(cli("--db", fresh_db, "runs", "list", "--json"))
    assert (listed["status"], listed["done"]) == ("crashed", 2)
    assert "done" in cli("--db", fresh_db, "runs", "resume", "latest").stdout
    (listed,) = _json(cli("--db", fresh_db, "runs", "list", "--json"))
    assert (listed["status"], listed["done"]) == ("done", listed["trials"])


def test_resuming_a_finished_run_says_so(cli: Cli, recorded_db: Path) -> None:
    resumed = cli("--db", recorded_db, "runs", "resume", "latest")
    assert resumed.returncode == 1
    assert "nothing is left to do" in resumed.stderr


def test_words_that_the_model_does_not_know_are_noted(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("the capital of zzz is\nmary lives in\n")
    finished = cli("run", "logit_lens", "-m", "demo", "--prompts", tmp_path / "mine.txt")
    assert finished.returncode == 0
    assert "1 of 2 prompts have words that demo does not know" in finished.stderr


ACROSS = "--across-quantization"


def test_two_runs_are_compared_with_statistics(cli: Cli, recorded_db: Path) -> None:
    runs = [run["run"] for run in _json(cli("--db", recorded_db, "runs", "list", "--json"))]
    compared = cli("--db", recorded_db, "compare", *reversed(runs), ACROSS, "--json")
    rows = _json(compared)
    assert {"layer", "n", "estimate", "low", "high", "p", "q"} <= set(rows[0])
    assert {(row["baseline"], row["run"]) for row in rows} == {(runs[1], runs[0])}
    assert "answer_rank" in compared.stderr  # the metric that it chose
    assert "entropy" in compared.stderr  # and what else there is


def test_three_runs_are_compared_side_by_side(cli: Cli, recorded_db: Path) -> None:
    runs = [str(run["run"]) for run in _json(cli("--db", recorded_db, "runs", "list", "--json"))]
    three = (*runs, runs[0])
    side = cli("--db", recorded_db, "compare", *three, "--metric", "entropy", "--format", "csv")
    assert next(csv.reader(io.StringIO(side.stdout))) == ["layer", *runs]
    options = ("--baseline", runs[1], ACROSS, "--json")
    found = _json(cli("--db", recorded_db, "compare", *runs, *options))
    assert {(row["baseline"], row["run"]) for row in found} == {(runs[1], runs[0])}


def test_two_runs_stand_side_by_side_on_request(cli: Cli, recorded_db: Path) -> None:
    runs = [str(run["run"]) for run in _json(cli("--db", recorded_db, "runs", "list", "--json"))]
    side = cli("--db", recorded_db, "compare", *runs, "--side-by-side", "--format", "csv")
    assert next(csv.reader(io.StringIO(side.stdout))) == ["layer", *runs]


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("yesterday", "yesterday"),
        ("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00+14:00"),
        ("2001-02-03T12:00:00+00:00", "2001-02-03 12:00"),
        (f"{datetime.now(UTC).year}-02-03T12:00:00+00:00", "02-03 12:00"),
    ],
)
def test_a_listing_says_when_briefly(cli: Cli, recorded_db: Path, stored: str, shown: str) -> None:
    with closing(sqlite3.connect(recorded_db)) as connection, connection:
        connection.execute("UPDATE runs SET created_at = ?", [stored])
    _, *lines = cli("--db", recorded_db, "runs", "list", TZ="UTC").stdout.splitlines()
    assert all(line.endswith(f"  {shown}") for line in lines)
    assert all("few" in line for line in lines)  # the prompt set


def test_the_axes_of_the_help_are_those_of_compare() -> None:
    from mlux.compare import GROUPS

    assert AXES == GROUPS


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs", "list"),
        ("models", "list"),
        ("prompts", "list"),
        ("prompts", "show", "facts"),
        ("experiments",),
        ("sql", "SELECT * FROM run_overview"),
    ],
    ids=" ".join,
)
def test_every_table_has_four_formats(
    cli: Cli, recorded_db: Path, arguments: tuple[str, ...]
) -> None:
    shown = {
        output: cli("--db", recorded_db, *arguments, "--format", output)
        for output in ("table", "csv", "json", "markdown")
    }
    assert {finished.returncode for finished in shown.values()} == {0}
    records = json.loads(shown["json"].stdout)
    rows = list(csv.reader(io.StringIO(shown["csv"].stdout, newline="")))
    assert rows[0] == list(records[0])
    assert len(rows) == len(records) + 1
    assert len(shown["table"].stdout.splitlines()) == len(records) + 1
    assert len(shown["markdown"].stdout.splitlines()) == len(records) + 2


@pytest.mark.parametrize(
    "arguments",
    [("experiments", "logit_lens"), ("models", "show", "demo"), ("db", "info")],
    ids=" ".join,
)
def test_every_description_is_text_and_json(
    cli: Cli, recorded_db: Path, arguments: tuple[str, ...]
) -> None:
    assert _json(cli("--db", recorded_db, *arguments, "--json"))
    assert cli("--db", recorded_db, *arguments).stdout


def test_reading_leaves_the_database_and_its_folder_as_they_were(
    cli: Cli, recorded_db: Path
) -> None:
    content, names = recorded_db.read_bytes(), sorted(recorded_db.parent.iterdir())
    for command in (("runs", "list"), ("runs", "show", "latest"), ("sql", "SELECT 1")):
        assert cli("--db", recorded_db, *command).returncode == 0
    assert recorded_db.read_bytes() == content
    assert sorted(recorded_db.parent.iterdir()) == names


def test_the_database_of_the_environment_is_the_default(cli: Cli, recorded_db: Path) -> None:
    assert len(_json(cli("runs", "list", "--json", MLUX_DB=str(recorded_db)))) == 2


def test_an_experiment_of_ones_own_is_found(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "counting.py").write_text(
        '"""Counts."""\n'
        "from dataclasses import dataclass, field\n"
        "from mlux import experiment\n"
        "@dataclass(frozen=True)\n"
        "class Config:\n"
        '    upto: int = field(default=3, metadata={"help": "how far"})\n'
        '@experiment(metrics=[], prompts="facts")\n'
        "def counting(model, config: Config, batch):\n"
        '    """Counts up."""\n'
        "    yield from ()\n",
        "utf-8",
    )
    assert "counting" in cli("--experiments", folder, "experiments").stdout
    (described,) = _json(cli("--experiments", folder, "experiments", "counting", "--json"))
    assert described["options"] == [
        {"option": "upto", "type": "a whole number", "default": 3, "help": "how far"}
    ]


def test_an_experiment_without_options_or_paper_is_described(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "from dataclasses import dataclass\n"
        "from mlux import experiment\n"
        "@dataclass(frozen=True)\n"
        "class Config: ...\n"
        '@experiment(metrics=[], prompts="facts")\n'
        "def plain(model, config: Config, batch):\n"
        '    """Does nothing."""\n'
        "    yield from ()\n",
        "utf-8",
    )
    described = cli("--experiments", tmp_path, "experiments", "plain")
    assert described.returncode == 0, described.stderr
    assert "Does nothing." in described.stdout
    assert "prompts" in described.stdout
    assert "Options" not in described.stdout
    assert "paper" not in described.stdout


def test_doctor_says_what_it_found_and_how_to_mend_it(cli: Cli, tmp_path: Path) -> None:
    checks = {check["name"]: check for check in _json(cli("doctor", "--json"))}
    names = {"python", "mlux", "mlx", "device", "blas", "speed", "database", "folder", "disk"}
    assert names <= set(checks)
    assert all(check["status"] == "ok" or check["fix"] for check in checks.values())
    assert "GFLOP/s" in str(checks["speed"]["detail"])
    assert not list((tmp_path / "here").iterdir())


def test_doctor_fails_on_what_stops_mlux(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "here" / "mlux.db").write_text("dear diary", "utf-8")
    examined = cli("doctor")
    assert examined.returncode == 1
    assert "fail  database" in examined.stdout
    assert "--db" in examined.stdout


def test_upgrade_names_the_revision(cli: Cli, recorded_db: Path) -> None:
    upgraded = cli("--db", recorded_db, "db", "upgrade")
    (known,) = _json(cli("--db", recorded_db, "db", "info", "--json"))
    assert str(known["revision"]) in upgraded.stdout


def test_pairs_keep_everything_after_the_first_equals_sign() -> None:
    option = click.Option(["-p"])
    assert pairs(click.Context(click.Command("x")), option, ("a=b=c", "d=")) == {
        "a": "b=c",
        "d": "",
    }
