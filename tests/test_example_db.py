"""`mlux.db.example`: what the main job stores, small, whole and at the newest revision."""

import re
import shlex
import shutil
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlux import tour
from mlux.cli.root import cli
from mlux.runner import Run
from mlux.store import Store, info, list_runs, query

EXAMPLE = Path(__file__).parent.parent / "mlux.db.example"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    return Path(shutil.copy(EXAMPLE, tmp_path / "example.db"))


def _runs(example: Path) -> list[Run]:
    """Its runs, oldest first, as the main job has them when it is done."""
    with Store.open(example) as store:
        return [
            Run(
                uid=run["run"],
                experiment=run["experiment"],
                model=run["model"],
                status=run["status"],
                n_trials=run["trials"],
                n_failed=run["failed"],
                seconds=run["seconds"],
            )
            for run in reversed(list_runs(store))
        ]


def test_it_is_small_whole_and_new(example: Path) -> None:
    assert example.stat().st_size < 2_000_000
    with Store.open(example) as store:
        facts = info(store)
    assert facts["revision"] == facts["newest_revision"]
    connection = sqlite3.connect(example)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


def test_it_holds_the_runs_of_the_main_job(example: Path) -> None:
    with Store.open(example) as store:
        runs = list_runs(store)
    assert len(runs) >= 6
    assert {run["status"] for run in runs} == {"done"}
    assert len({run["experiment"] for run in runs}) >= 3
    assert {run["model"] for run in runs} == {"demo", "demo-4bit"}


def test_it_answers_what_the_main_job_asks(example: Path) -> None:
    runs = _runs(example)
    with Store.open(example) as store:
        _, hosts = query(store, "SELECT DISTINCT host FROM runs")
    layers, heads, patched, change = (found.rows for found in tour.findings(str(example), runs))
    # Nearly every fact is on top by the last block, on both models.
    known = {model: sum(n for m, _, n in layers if m == model) for model in ("demo", "demo-4bit")}
    assert min(known.values()) >= 120
    assert heads[0][2] > 0.5
    assert patched[0][2] > 0.3
    assert [row[0] for row in change] == list(range(6))
    assert hosts == [("example",)]


def test_every_command_under_a_finding_prints_that_finding(
    example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tour, "run_jobs", lambda location, progress: iter(_runs(example)))
    shown = CliRunner().invoke(cli, ["--db", str(example), "demo"], catch_exceptions=False).stdout
    blocks = re.findall(r"\n\n.+\?\n((?:.+\n)+?)\$ mlux (.+(?:\n.+)*?)(?=\n\n)", shown)
    assert len(blocks) == 4
    for table, command in blocks:
        again = CliRunner().invoke(cli, shlex.split(command), catch_exceptions=False).stdout
        assert _words(again) == _words(table)


def _words(table: str) -> list[list[str]]:
    """A table's texts, line by line, without the mark of the best value."""
    return [line.replace("*", "").split() for line in table.splitlines()]


def test_every_run_of_it_is_verified(tmp_path: Path) -> None:
    """The numbers are found again, by the code and on the model that made them.

    If an experiment was changed, rebuild the file: python -m tools.example_db
    """
    from mlux import compare
    from mlux.verify import verify

    db = Path(shutil.copy(EXAMPLE, tmp_path / "example.db"))
    for uid in compare.runs(db)["run"]:
        found = verify(uid, db=db)
        assert found.n_different == 0, found.first
        assert {one.part for one in found.changed} <= {"versions", "environment"}, found.changed
