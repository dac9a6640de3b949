"""`mlux runs tag`, `note` and `list --where`, as typed."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Cli = Callable[..., subprocess.CompletedProcess[str]]


def test_a_run_is_tagged_noted_and_found_again(cli: Cli, recorded_db: Path) -> None:
    db = ("--db", recorded_db)
    done = cli(*db, "runs", "tag", "latest", "paper=fv", "draft=2", "--remove", "kind")
    assert done.stdout.endswith(": draft=2, paper=fv\n"), done.stderr
    assert cli(*db, "runs", "note", "latest", "figure 3").stdout.endswith(": figure 3\n")
    where = "tags.paper = 'fv' and note ~ 'FIGURE' and model ~ 'demo' and params.top_k >= 1"
    found = json.loads(cli(*db, "runs", "list", "--json", "--where", where).stdout)
    assert [(run["tags"], run["note"]) for run in found] == [
        ({"draft": "2", "paper": "fv"}, "figure 3")
    ]
    assert cli(*db, "runs", "note", "latest", "").stdout.endswith(": no note\n")
    assert cli(*db, "runs", "list", "--where", "note is not null").stderr == "No such runs.\n"


def test_what_is_wrong_is_one_line(cli: Cli, recorded_db: Path) -> None:
    for arguments, said, code in (
        (("list", "--where", "modle = 'x'"), "character 1: No column named 'modle'.", 1),
        (("tag", "latest"), "Give KEY=VALUE, or --remove KEY.", 2),
        (("tag", "latest", "paper"), "'paper' is not KEY=VALUE.", 2),
        (("tag", "latest", "--remove", "knd"), "Did you mean 'kind'?", 1),
        (("note", "latst", "x"), "No run named 'latst'.", 1),
        (("note", "latest", b"\xff".decode("utf-8", "surrogateescape")), "no database can", 1),
    ):
        done = cli("--db", recorded_db, "runs", *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert said in done.stderr
    missing = cli("--db", "none.db", "runs", "tag", "latest", "a=b")
    assert missing.stderr.startswith("Error: No database at none.db.")
