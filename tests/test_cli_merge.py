"""`mlux merge`, as typed."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

Cli = Callable[..., "subprocess.CompletedProcess[str]"]  # the fixture of conftest.py


def test_a_notebook_is_merged_and_merged_again(
    cli: Cli, recorded: Path, recorded_db: Path, tmp_path: Path
) -> None:
    ours = ("--db", tmp_path / "ours.db")
    done = cli(*ours, "merge", recorded)
    assert (done.stdout, done.stderr) == ("Runs: 2 new, 0 here already.\n", "")
    assert cli(*ours, "merge", recorded).stdout == "Runs: 0 new, 2 here already.\n"
    listed = [
        json.loads(cli("--db", db, "runs", "list", "--json").stdout) for db in (ours[1], recorded)
    ]
    assert listed[0] == listed[1]
    again = json.loads(cli(*ours, "merge", recorded_db, "--json").stdout)
    assert sorted(again["same"]) == sorted(run["run"] for run in listed[0])


def test_what_is_wrong_is_one_line_and_makes_no_database(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, but long enough to be looked at " * 50)
    for other, said in (
        (tmp_path / "none.db", "No database at"),
        (tmp_path / "text.db", "it is not a SQLite database"),
        (tmp_path, "it is a folder"),
        ("mysql://x", "not mysql"),
    ):
        done = cli("--db", tmp_path / "ours.db", "merge", other)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
        assert said in done.stderr
    assert not (tmp_path / "ours.db").exists()


def test_what_cannot_be_taken_is_said(cli: Cli, recorded_db: Path, tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(recorded_db) as connection:
        connection.execute("UPDATE models SET dtype = 'float64' WHERE quant_bits IS NOT NULL")
    connection.close()
    done = cli("--db", tmp_path / "ours.db", "merge", recorded_db)
    assert (done.returncode, done.stdout) == (1, "Runs: 1 new, 0 here already.\n")
    first, last = done.stderr.splitlines()
    assert first.startswith("Not taken: ")
    assert "row 2 of models is not what its hash says." in first
    assert last.startswith("Error: 1 of ")


def test_it_is_not_merged_into_itself(cli: Cli, recorded_db: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(recorded_db)
    assert "cannot be merged into itself" in cli("--db", recorded_db, "merge", link).stderr
    shutil.copy(recorded_db, tmp_path / "copy.db")
    assert cli("--db", recorded_db, "merge", tmp_path / "copy.db").returncode == 0
