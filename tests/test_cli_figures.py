"""`mlux plot`, `mlux claim` and `mlux runs watch`, as they are typed."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic import make_environment, make_finished, make_spec, token_text

from mlux.charts import CHARTS
from mlux.cli import claim as claim_commands
from mlux.cli import plot
from mlux.store import RunWriter, Store, create_run
from mlux.store.claims import STATUSES

Cli = Callable[..., "subprocess.CompletedProcess[str]"]  # the fixture of conftest.py


def test_the_names_on_help_pages_are_those_of_the_library() -> None:
    assert tuple(CHARTS) == plot.CHARTS
    assert claim_commands.STATUSES == STATUSES


@pytest.mark.parametrize(
    ("ending", "begins"),
    [("png", b"\x89PNG"), ("svg", b"<svg"), ("json", b"{"), ("html", b"<!do")],
)
def test_plot_writes_what_the_ending_says(
    cli: Cli, recorded_db: Path, tmp_path: Path, ending: str, begins: bytes
) -> None:
    target = tmp_path / f"lens.{ending}"
    drawn = cli("--db", recorded_db, "plot", "latest", "latest~1", "-o", target)
    assert (drawn.returncode, drawn.stdout) == (0, f"{target}\n"), drawn.stderr
    assert target.read_bytes().startswith(begins)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["latest", "-o", "x.jpg"], "Cannot write 'x.jpg': its ending must be one of .png, .svg"),
        (["latest", "-o", "no/x.png"], "There is no folder 'no' to write x.png to."),
        (["latest", "-o", "x.png", "--chart", "head_map"], "Did you mean 'head_heatmap'"),
        (["latest", "-o", "x.png", "--metric", "rank"], "Did you mean 'answer_rank'"),
        (["zzz", "-o", "x.png"], "No run named 'zzz'"),
        (["latest", "-o", "x.png", "--chart", "run_scatter", "--metric", "entropy"], "two metrics"),
    ],
)
def test_plot_says_what_it_cannot_do(
    cli: Cli, recorded_db: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    refused = cli("--db", recorded_db, "plot", *arguments)
    assert refused.returncode in (1, 2)
    assert complaint in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not list((tmp_path / "here").iterdir())


WITHOUT_ALTAIR = """
import importlib.util as util
import sys

find = util.find_spec
util.find_spec = lambda name, *rest: None if name == "altair" else find(name, *rest)
from mlux.cli import main

main(sys.argv[1:])
"""


@pytest.mark.parametrize("command", ["plot", "report"])
def test_without_the_extra_a_command_says_what_to_install(
    recorded_db: Path, tmp_path: Path, command: str
) -> None:
    typed = ["--db", str(recorded_db), command, "latest", "-o", str(tmp_path / "x.html")]
    refused = subprocess.run(
        [sys.executable, "-c", WITHOUT_ALTAIR, *typed], capture_output=True, text=True
    )
    assert refused.returncode == 1
    wanted = "Error: Charts need altair, which is missing: pip install 'mlux[plot]'"
    assert refused.stderr.splitlines() == [wanted]


def test_a_claim_is_filed_listed_shown_edited_and_deleted(cli: Cli, recorded_db: Path) -> None:
    def claim(*arguments: str) -> str:
        done = cli("--db", recorded_db, "claim", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    text = "the answer is there from layer 3 on <b>\x1b[31m"
    uid = claim("add", text, "--runs", "latest,latest~1", "--status", "supported").strip()
    (listed,) = json.loads(claim("list", "--json"))
    assert (listed["claim"], listed["text"], len(listed["runs"])) == (uid, text, 2)
    assert "\\x1b" in claim("list")
    assert "logit_lens" in claim("show", uid[:6])
    assert claim("edit", uid, "--status", "refuted", "--remove-run", "latest").strip() == uid
    shown = json.loads(claim("show", uid, "--json"))
    assert (shown["status"], len(shown["runs"])) == ("refuted", 1)
    claim("delete", uid)
    assert json.loads(claim("list", "--json")) == []


def _start(store: Store) -> tuple[str, RunWriter]:
    """A run of this process with two of four trials done."""
    uid = create_run(store, make_spec())
    writer = RunWriter(store, uid, token_text)
    writer.start(make_environment())
    writer.write([make_finished(trial) for trial in range(2)])
    return uid, writer


def test_watch_once_shows_how_far_each_run_is(cli: Cli, fresh_db: Path) -> None:
    with Store.open(fresh_db, write=True) as store:
        _, writer = _start(store)
        (seen,) = json.loads(cli("--db", fresh_db, "runs", "watch", "--once", "--json").stdout)
        assert (seen["status"], seen["trials"]) == ("running", "2/4")
        assert "2/4" in cli("--db", fresh_db, "runs", "watch", "--once").stdout
        writer.finish("crashed")
    over = cli("--db", fresh_db, "runs", "watch", "--once")
    assert "No run is under way." in over.stderr


def test_watch_without_a_terminal_prints_changes_and_ends_with_the_last_run(fresh_db: Path) -> None:
    with Store.open(fresh_db, write=True) as store:
        uid, writer = _start(store)
        command = [sys.executable, "-m", "mlux.cli", "--db", fresh_db, "runs", "watch"]
        watching = subprocess.Popen(
            [*command, "--interval", "0.1"], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert watching.stdout is not None
        assert "2/4" in watching.stdout.readline()
        writer.write([make_finished(2)])
        assert "3/4" in watching.stdout.readline()
        writer.write([make_finished(3)])
        writer.finish("done")
    rest, _ = watching.communicate()
    assert rest.splitlines()[-1].split() == [uid, "done"]
    assert watching.returncode == 0


def test_watch_on_a_terminal_stays_until_ctrl_c(fresh_db: Path) -> None:
    with Store.open(fresh_db, write=True) as store:
        _start(store)
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "mlux.cli", "--db", fresh_db, "runs", "watch"]
        environment = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
        watching = subprocess.Popen(
            command, stdout=slave, stderr=slave, stdin=slave, env=environment
        )
        seen = b""
        while b"Ctrl-C leaves" not in seen:
            seen += os.read(master, 4096)
        watching.send_signal(signal.SIGINT)
        assert watching.wait() == 0
        os.close(slave)
        os.close(master)
    assert b"2/4" in seen
    assert b"toy_lens" in seen
