"""`mlux runs delete` and `restore`, `mlux db check`, `backup`, `gc` and `downgrade`, as typed."""

import subprocess
from collections.abc import Callable
from pathlib import Path

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_a_run_goes_comes_back_and_goes_for_good(cli: Cli, recorded_db: Path) -> None:
    db = ("--db", recorded_db)
    done = cli(*db, "runs", "delete", "latest")
    uid = done.stdout.split()[0]
    assert done.stdout == f"{uid} is deleted.\n"
    assert done.stderr == f"Bring back with: mlux runs restore {uid}\n"
    assert uid in cli(*db, "runs", "list", "--deleted", "--format", "csv").stdout
    assert cli(*db, "runs", "restore", uid).stdout == f"{uid} is back.\n"
    asked = cli(*db, "runs", "delete", "--hard", uid)
    said = "Error: Nobody is there to be asked; add --yes. Nothing was changed.\n"
    assert (asked.returncode, asked.stderr) == (1, said)
    assert cli(*db, "runs", "delete", "--hard", "-y", uid).stdout == f"{uid} is deleted for good.\n"
    listed = cli(*db, "runs", "list", "--limit", "1")
    assert listed.stderr.startswith("Older ones: --before ")
    assert uid not in listed.stdout


def test_the_database_is_looked_after(cli: Cli, recorded_db: Path) -> None:
    db = ("--db", recorded_db)
    assert cli(*db, "db", "check").stdout == f"{recorded_db} is sound.\n"
    copy = recorded_db.with_name("copy.db")
    assert cli(*db, "db", "backup", copy).stdout == f"{copy}\n"
    assert "is there already" in cli(*db, "db", "backup", copy).stderr
    cli(*db, "runs", "delete", "latest")
    found = cli(*db, "db", "gc", "--older-than", "0", "--dry-run")
    assert found.stderr == "Would remove 1 runs and 0 files of 0.0 MB.\n"
    assert cli(*db, "db", "gc", "--older-than", "0").stdout == found.stdout
    done = cli(*db, "db", "downgrade", "r0001", "--yes")
    assert done.stdout == f"{recorded_db} is at revision r0001.\n", done.stderr
    assert done.stderr.startswith(f"As it was before: {recorded_db}.backup-r0004-")
    assert "at revision r0001; this mlux needs r0004" in cli(*db, "db", "check").stderr
    assert cli("--db", copy, "db", "check", "--json").stdout == "[]\n"
