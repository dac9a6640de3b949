"""Bad input is answered in one line that says what to do, and leaves nothing behind."""

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mlux.errors import StoreError
from mlux.store import Store

Cli = Callable[..., "subprocess.CompletedProcess[str]"]  # the fixture of conftest.py
RUN = ("run", "logit_lens", "--model", "demo")

# What is typed → what the one line has to say. The folder it is typed in is empty.
UNKNOWN = {
    "experiment": (("run", "logitlens", "--model", "demo"), "Did you mean 'logit_lens'"),
    "described experiment": (("experiments", "logit_lenz"), "Did you mean 'logit_lens'"),
    "second experiment": (
        ("run", "logit_lens", "indction_heads", "--model", "demo"),
        "Did you mean 'induction_heads'",
    ),
    "model": (("run", "logit_lens", "--model", "dem"), "Did you mean 'demo'"),
    "second model": ((*RUN, "--model", "no/such/folder"), "no/such/folder"),
    "prompt set": ((*RUN, "--prompts", "fcts"), "Did you mean 'facts'"),
    "prompts file": ((*RUN, "--prompts", "missing.jsonl"), "missing.jsonl"),
    "parameter": ((*RUN, "-p", "topk=5"), "Did you mean 'top_k'?"),
    "value of the wrong type": ((*RUN, "-p", "top_k=many"), "top_k"),
    "run without a database": (("runs", "show", "abc"), "mlux demo"),
    "no database to list": (("runs", "list"), "mlux demo"),
    "no database to ask": (("sql", "SELECT 1"), "mlux demo"),
    "model to show without a database": (("models", "show", "demo"), "mlux demo"),
    "folder of the database": (("--db", "no/such/x.db", *RUN), "no/such"),
    "kind of database": (("--db", "mysql://host/x", "runs", "list"), "mysql"),
    "name too long": (("--db", "x" * 300 + ".db", "runs", "list"), "File name too long"),
    "prompts of a name too long": ((*RUN, "--prompts", "x" * 300), "File name too long"),
    "many samples": (("run", "causal_tracing", "-m", "demo", "-p", "samples=9999999"), "1 to 1000"),
    "noise without end": (("run", "causal_tracing", "-m", "demo", "-p", "noise=inf"), "finite"),
    "many groups": (
        ("run", "causal_mediation", "-m", "demo", "-p", "neuron_groups=999999999"),
        "1 to 10000",
    ),
    "many prompts": (("run", "function_vectors", "-m", "demo", "-p", "n_prompts=9999"), "1000"),
    "no separator": (("run", "function_vectors", "-m", "demo", "-p", "separator="), "separator"),
    "empty refusal": (("run", "refusal_direction", "-m", "demo", "-p", "refusals="), "refusals"),
    "many steps": (("run", "attribution_patching", "-m", "demo", "-p", "steps=9999"), "1 to 1000"),
    "giant steps": (("run", "tuned_lens", "-m", "demo", "-p", "learning_rate=1e30"), "up to 1"),
    "note that is no UTF-8": ((*RUN, "--note", "\udcff"), "no database can hold"),
    "tag that is no UTF-8": ((*RUN, "--tag", "a=\udcff"), "no database can hold"),
    "folder of experiments": (("--experiments", "nowhere", "experiments"), "nowhere"),
}

USAGE = {
    "command": (("rnu",), "Did you mean 'run'"),
    "subcommand": (("runs", "lst"), "Did you mean 'list'?"),
    "option": (("run", "logit_lens", "--modle", "demo"), "--model"),
    "missing model": (("run", "logit_lens"), "--model"),
    "format": (("prompts", "list", "--format", "jsn"), "'json'"),
    "parameter without a value": ((*RUN, "-p", "top_k"), "KEY=VALUE"),
    "parameter given twice": ((*RUN, "-p", "top_k=1", "-p", "top_k=2"), "twice"),
    "batch size": ((*RUN, "--batch-size", "0"), "--batch-size"),
    "large batch": ((*RUN, "--batch-size", "9" * 20), "--batch-size"),
    "seed": ((*RUN, "--seed", "x"), "--seed"),
    "negative seed": ((*RUN, "--seed", "-1"), "--seed"),
    "large seed": ((*RUN, "--seed", str(2**31)), "--seed"),
    "limit": (("runs", "list", "-n", "9" * 20), "--limit"),
    "rows": (("sql", "SELECT 1", "--max-rows", "9" * 20), "--max-rows"),
    "no seconds": (("sql", "SELECT 1", "--seconds", "0"), "--seconds"),
    "seconds without end": (("sql", "SELECT 1", "--seconds", "inf"), "--seconds"),
    "seconds that are no number": (("sql", "SELECT 1", "--seconds", "nan"), "--seconds"),
    "empty database path": (("--db", "", "runs", "list"), "--db is empty"),
    "side by side, and differences": (("compare", "a", "b", "--stats", "--side-by-side"), "leave"),
    "option in the wrong place": (("runs", "list", "--db", "x.db"), "before the command"),
    "one run to compare": (("compare", "latest"), "two"),
    "seed of resampling": (("compare", "a", "b", "--seed", "-1"), "--seed"),
    "axis": (("compare", "a", "b", "--by", "layr"), "'layer'"),
}


def _one_line(finished: "subprocess.CompletedProcess[str]", code: int) -> str:
    assert finished.returncode == code, finished.stderr
    (line,) = finished.stderr.splitlines()
    assert line.startswith("Error: ")
    assert finished.stdout == ""
    return line


@pytest.mark.parametrize(("arguments", "advice"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_error_is_one_line(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], advice: str
) -> None:
    assert advice in _one_line(cli(*arguments), 1)
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(("arguments", "advice"), USAGE.values(), ids=USAGE)
def test_wrong_usage_is_one_line_and_2(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], advice: str
) -> None:
    assert advice in _one_line(cli(*arguments), 2)
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("empty.txt", "\n \n", "empty"),
        ("empty.json", "[]", "empty"),
        ("broken.jsonl", '{"text": ', "broken.jsonl"),
        ("role.jsonl", '{"text": "a", "anser": "b"}', "Did you mean 'answer'"),
        ("number.json", "[3]", "number.json, line 1"),
        ("long.json", json.dumps([{"text": "one " * 5000, "answer": "two"}]), "context"),
        ("binary.txt", b"\xff\xfe\x00\x01", "UTF-8"),
        ("prompts.docx", "x", ".jsonl"),
    ],
)
def test_bad_prompts_are_one_line(
    cli: Cli, tmp_path: Path, name: str, content: str | bytes, advice: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert advice in _one_line(cli(*RUN, "--prompts", path), 1)
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("files", [(), ("config.json",)], ids=["nothing", "no weights"])
def test_a_model_folder_without_a_model_is_one_line(
    cli: Cli, tmp_path: Path, files: tuple[str, ...]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}", "utf-8")
    line = _one_line(cli("run", "logit_lens", "--model", folder), 1)
    assert ("weights" if files else "config.json") in line
    assert not list((tmp_path / "here").iterdir())


@pytest.fixture(params=["text", "foreign", "folder"])
def not_ours(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Something at the database's path that is none of mlux's."""
    path = tmp_path / "other.db"
    if request.param == "text":
        path.write_text("dear diary", "utf-8")
    elif request.param == "folder":
        path.mkdir()
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE runs (id INTEGER)")
        connection.close()
    return path


@pytest.mark.parametrize("arguments", [("runs", "list"), ("sql", "SELECT 1"), RUN], ids=" ".join)
def test_what_is_no_database_of_ours_is_left_alone(
    cli: Cli, not_ours: Path, arguments: tuple[str, ...]
) -> None:
    before = not_ours.read_bytes() if not_ours.is_file() else None
    assert str(not_ours) in _one_line(cli("--db", not_ours, *arguments), 1)
    assert before == (not_ours.read_bytes() if not_ours.is_file() else None)
    assert sorted(p.name for p in not_ours.parent.iterdir()) == ["here", "other.db"]


AS_ANOTHER_USER = """
import os, sys
from mlux.cli import root
readable, unreadable = sys.argv[1:]
root._run(["--db", readable, "runs", "list"])  # imports all that it needs
if os.getuid() == 0:
    os.setuid(65534)  # the super-user, as whom containers run, may read everything
sys.exit(root._run(["--db", unreadable, "runs", "list"]))
"""


def test_an_unreadable_database_is_one_line(recorded_db: Path) -> None:
    # Not below pytest's own folder, which other users may not enter.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        unreadable = Path(shutil.copy(recorded_db, name))
        unreadable.chmod(0)
        command = [sys.executable, "-c", AS_ANOTHER_USER, str(recorded_db), str(unreadable)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert [path.name for path in Path(name).iterdir()] == [unreadable.name]
    (line,) = result.stderr.splitlines()
    assert result.returncode == 1
    assert line.startswith("Error: ")
    assert "ermission" in line


@pytest.mark.parametrize("arguments", [("runs", "list"), RUN], ids=" ".join)
def test_a_database_of_a_later_mlux_is_refused(
    cli: Cli, recorded_db: Path, arguments: tuple[str, ...]
) -> None:
    with sqlite3.connect(recorded_db) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'r9999'")
    connection.close()
    line = _one_line(cli("--db", recorded_db, *arguments), 1)
    assert "r9999" in line
    assert "pip install" in line


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("runs", "show", "zzzz"), "zzzz"),
        (("runs", "show", "latest:induction_heads"), "induction_heads"),
        (("runs", "show", "latest~" + "9" * 20), "There are not"),
        (("runs", "show", "latest~" + "9" * 5000), "There are not"),
        (("sql", "SELECT hex(zeroblob(40000000))"), "too big"),
        (("runs", "resume", "zzzz"), "zzzz"),
        (("compare", "latest", "zzzz"), "zzzz"),
        (("compare", "latest", "latest", "--metric", "answer_rnk"), "Did you mean 'answer_rank'"),
        (("models", "show", "dmo"), "Did you mean 'demo'"),
        (("sql", "DELETE FROM runs"), "read"),
        (("sql", "SELECT nothing FROM runs"), "nothing"),
        (("sql", "SELEC 1"), "SELEC"),
        (("sql", "SELECT 1; DROP TABLE runs"), ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_unknown_names_in_a_database_are_one_line(
    cli: Cli, recorded_db: Path, arguments: tuple[str, ...], advice: str
) -> None:
    before = recorded_db.read_bytes()
    assert advice in _one_line(cli("--db", recorded_db, *arguments), 1)
    assert recorded_db.read_bytes() == before


def test_debug_adds_the_traceback(cli: Cli) -> None:
    finished = cli("--debug", "runs", "list")
    assert finished.returncode == 1
    assert "Traceback" in finished.stderr
    assert finished.stderr.splitlines()[-1].startswith("Error: ")


def test_a_closed_pipe_is_no_error(cli: Cli) -> None:
    command = f"{sys.executable} -m mlux.cli prompts show facts --json | head -1"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert finished.stdout == "[\n"
    assert finished.stderr == ""


def _experiments(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    return folder


def test_a_broken_experiment_hides_no_other(cli: Cli, tmp_path: Path) -> None:
    mine = _experiments(tmp_path / "mine", syntax="def (", imports="import nowhere_x", helper="")
    listed = cli("--experiments", mine, "experiments")
    assert listed.returncode == 0
    assert "logit_lens" in listed.stdout
    helper, imports, syntax = listed.stderr.splitlines()
    assert "helper.py: no experiment 'helper'" in helper
    assert "imports.py:1: " in imports
    assert "ModuleNotFoundError: No module named 'nowhere_x'" in imports
    assert "SyntaxError" in syntax
    line = _one_line(cli("--experiments", mine, "run", "syntax", "--model", "demo"), 1)
    assert f"{mine / 'syntax.py'}:1: the experiment cannot be loaded: SyntaxError" in line


@pytest.mark.parametrize("arguments", [("runs", "list"), ("runs", "show", "latest")], ids=" ".join)
def test_a_damaged_database_is_one_line(
    cli: Cli, recorded_db: Path, arguments: tuple[str, ...]
) -> None:
    with sqlite3.connect(recorded_db) as connection:
        connection.execute("DROP TABLE run_tags")
    connection.close()
    line = _one_line(cli("--db", recorded_db, *arguments), 1)
    assert f"{recorded_db} is damaged: no such table: run_tags. Put a backup in its place" in line


def test_nothing_runs_if_one_of_several_names_is_wrong(cli: Cli, fresh_db: Path) -> None:
    cli("--db", fresh_db, "run", "logit_lens", "nope", "--model", "demo")
    assert not fresh_db.exists()


def test_a_database_that_cannot_be_created_is_told_at_once(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "gone" / "x.db")
    assert "there is no folder" in _one_line(cli("--db", str(link), "db", "upgrade"), 1)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waits as for a lock"))
    with pytest.raises(StoreError, match="there is no folder"):
        Store.open(link, write=True)


@pytest.mark.parametrize("command", [("plot",), ("report",)], ids=str)
def test_a_place_that_takes_no_file_is_one_line(
    cli: Cli, recorded_db: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    suffix = {"plot": "svg", "report": "html"}[command[0]]
    target = tmp_path / f"{'x' * 300}.{suffix}"
    line = _one_line(cli("--db", str(recorded_db), *command, "latest", "-o", str(target)), 1)
    assert "File name too long" in line


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("runs", "delete", "latest:"), "No run named 'latest:'"),
        (("compare", "latest", "latest", "--metric", ""), "''"),
        (("compare", "latest", "latest", "--sort", "bogus"), "Known: run, baseline, layer"),
    ],
    ids=["experiment", "metric", "column"],
)
def test_an_empty_name_stands_for_nothing(
    cli: Cli, recorded_db: Path, arguments: tuple[str, ...], advice: str
) -> None:
    """As of an unset variable in a script: `runs delete latest:$EXPERIMENT` deletes no run."""
    finished = cli("--db", str(recorded_db), *arguments)
    assert finished.returncode == 1
    assert advice in finished.stderr.splitlines()[-1]
    assert finished.stdout == ""


def test_ctrl_c_before_it_has_begun_is_one_line_and_130() -> None:
    script = (
        "import builtins, mlux.cli\n"
        "def stop(*_):\n"
        "    raise KeyboardInterrupt\n"
        "builtins.__import__ = stop\n"
        "mlux.cli.main(['--version'])\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (130, "Error: Interrupted.\n")


@pytest.mark.parametrize(
    ("experiment", "option"),
    [("steering", "alphas=0,1e30"), ("probing", "strength=1e-320")],
)
def test_numbers_at_the_end_of_the_floats_are_one_line(
    cli: Cli, experiment: str, option: str
) -> None:
    line = _one_line(cli("run", experiment, "--model", "demo", "-p", option), 1)
    assert "expected at" in line
