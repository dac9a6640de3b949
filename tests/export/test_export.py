"""What was exported is what was stored, wherever it is opened."""

import json
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from synthetic import make_environment, make_finished, make_model, make_spec, token_text, write_run

from mlux import compare
from mlux.cli.output import show_frame
from mlux.errors import StoreError, UnknownNameError
from mlux.export import export
from mlux.export.tables import _write
from mlux.export.tracking import export_mlflow
from mlux.results import Artifact
from mlux.store import RunWriter, Store, artifacts, create_run, list_runs
from mlux.store.deletion import delete_runs
from mlux.store.soundness import check


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "lab.db", write=True) as opened:
        yield opened


@pytest.fixture
def uids(store: Store) -> list[str]:
    """A queued run, a run with heads, controls and other options, and one with artifacts."""
    queued = create_run(store, make_spec(experiment="waiting"))
    other = write_run(
        store,
        make_spec(
            conditions=[{}, {"site": "a", "control": "random"}],
            model=make_model("big", weights_hash="00"),
            params={"top_k": "auto", "layers": 3},
            note=None,
        ),
    )
    uid = create_run(store, make_spec(tags={"paper": "fv", "ü:§": "x" * 6000}))
    writer = RunWriter(store, uid, token_text)
    writer.start(make_environment())
    writer.put_artifacts([Artifact(name="v/1", kind="vectors", arrays={"v": np.arange(3.0)})])
    writer.write([make_finished(trial) for trial in range(4)])
    writer.finish("done")
    return [queued, other, uid]


def test_a_notebook_of_chosen_runs(store: Store, uids: list[str], tmp_path: Path) -> None:
    deleted = write_run(store)
    delete_runs(store, [deleted])
    out = tmp_path / "paper.db"
    made = export(store, uids[1:], out)
    assert made == [out, tmp_path / "paper.db-artifacts"]
    with Store.open(out) as copy:
        assert check(copy) == []
        assert [run["run"] for run in list_runs(copy)] == uids[:0:-1]
        pd.testing.assert_frame_equal(
            compare.layer_results(uids[1:], db=copy),
            compare.layer_results(uids[1:], db=store),
            check_categorical=False,
        )
        loaded = artifacts.load(copy, uids[2], "v/1")
        np.testing.assert_array_equal(loaded["v"], np.arange(3.0))
    assert not out.with_name("paper.db-wal").exists()


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_every_number_in_one_file(store: Store, uids: list[str], tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"results.{kind}"
    assert export(store, uids, out) == [out]
    read = pd.read_parquet(out) if kind == "parquet" else pd.read_csv(out, keep_default_na=False)
    stored = compare.layer_results(uids, db=store)
    assert list(read.columns) == list(stored.columns)
    assert read["value"].tolist() == stored["value"].tolist()  # to the last digit
    for name in ("run", "prompt", "condition", "metric", "model"):
        assert read[name].tolist() == stored[name].tolist()
    heads = [None if head == "" or pd.isna(head) else int(head) for head in read["head"]]
    assert heads == [None if pd.isna(head) else head for head in stored["head"]]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_a_folder_of_tables(store: Store, uids: list[str], tmp_path: Path, kind: str) -> None:
    export(store, uids, tmp_path / "tables", table_format=kind)
    names = ("runs", "metrics", "prompts", "results", "predictions", "generations")
    paths = [tmp_path / "tables" / f"{name}.{kind}" for name in names]
    assert sorted((tmp_path / "tables").iterdir()) == sorted(paths)
    rows = {
        name: duckdb.sql(f"SELECT * FROM '{path}'").fetchall()
        for name, path in zip(names, paths, strict=True)
    }
    assert [len(rows[name]) for name in names] == [3, 4, 12, 156, 72, 12]
    joined = duckdb.sql(
        f"SELECT r.model, avg(v.value) FROM '{paths[3]}' AS v JOIN '{paths[0]}' AS r "
        "ON r.run = v.run WHERE v.metric = 'accuracy' GROUP BY r.model ORDER BY 1"
    )
    assert joined.fetchall() == [("big", 0.5), ("toy", 0.5)]
    params = duckdb.sql(f'SELECT "params.top_k", "params.layers" FROM \'{paths[0]}\'').fetchall()
    assert sorted(params) == [("2", "[0, 2]"), ("2", "[0, 2]"), ("auto", "3")]


@pytest.mark.parametrize("name", ["results.v2", "2026.11.27", "of gpt-2.5", "a.txt/", "v1.0"])
def test_a_folder_may_have_a_dot_in_its_name(
    store: Store, uids: list[str], tmp_path: Path, name: str
) -> None:
    export(store, uids, f"{tmp_path}/{name}", table_format="csv")
    assert (tmp_path / name / "runs.csv").is_file()


CELLS = {
    "text": ["a", 'b, "c"', "line\nend", "é\u2028"],
    "whole": [1, -2, 2**62, 0],
    "number": [0.1, -1e-300, 1e22, 3.0],
    "truth": [True, False, True, True],
    "mapping": [{"a": 1, "é": [None, True]}, {}, {"it's": 'a "b"'}, {"n": {"m": 0.1}}],
    "list": [[1, 2], [], [None, True], ["x", {"y": 1.5}]],
    "tuple": [(1, 2), (), (None,), ("it's", False)],
    "some": [None, [1], None, {"a": 2}],
    "time": pd.to_datetime(["2026-01-02T03:04:05.678901Z"] * 4),
    "category": pd.Categorical(["u", "v", "u", "v"]),
}


@pytest.mark.parametrize("kind", ["parquet", "csv", "cli csv", "cli json"])
def test_every_type_of_column_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    frame = pd.DataFrame(CELLS)
    path = tmp_path / "cells"
    if kind.startswith("cli"):
        show_frame(frame, kind.removeprefix("cli "))
        path.write_text(capsys.readouterr().out, "utf-8", newline="")
    else:
        _write(path, kind, iter([frame]))
    if kind == "parquet":
        back = pd.read_parquet(path)
    elif kind == "cli json":
        back = pd.DataFrame(json.loads(path.read_text("utf-8")))
    else:
        back = pd.read_csv(path, keep_default_na=False)
    assert list(back) == list(frame)
    for name in ("text", "whole", "number", "truth", "category"):
        assert back[name].tolist() == frame[name].tolist(), name
    assert pd.to_datetime(back["time"]).tolist() == frame["time"].tolist()
    for name in ("mapping", "list", "tuple", "some"):
        for value, read in zip(CELLS[name], back[name], strict=True):
            if value is None:
                assert read is None or read == "" or read != read
                continue
            found = read if kind == "cli json" else json.loads(read)
            assert found == json.loads(json.dumps(value)), name


def test_nothing_is_overwritten(store: Store, uids: list[str], tmp_path: Path) -> None:
    for name in ("a.db", "a.csv", "a.parquet", "folder"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(StoreError, match="is there already; choose another name"):
            export(store, uids, tmp_path / name)
        assert (tmp_path / name).read_text() == "mine"
    (tmp_path / "b.db-artifacts").mkdir()
    with pytest.raises(StoreError, match=r"b\.db-artifacts is there already"):
        export(store, uids, tmp_path / "b.db")
    assert not (tmp_path / "b.db").exists()


def test_what_cannot_be_written_is_said(store: Store, uids: list[str], tmp_path: Path) -> None:
    for out, table_format, complaint in (
        ("a.txt", "parquet", "No kind of file named '.txt'"),
        ("a.parqet", "parquet", "No kind of file named '.parqet'. Did you mean '.parquet'"),
        ("a.xlsx", "parquet", "No kind of file named '.xlsx'"),
        ("tables", "parqet", "No format of tables named 'parqet'. Did you mean 'parquet'"),
        ("no/a.csv", "csv", "there is no folder"),
        ("no/tables", "csv", "there is no folder"),
    ):
        with pytest.raises((StoreError, UnknownNameError), match=complaint):
            export(store, uids, tmp_path / out, table_format=table_format)
    file = artifacts.folder(store)
    for path in file.rglob("*.safetensors"):
        path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(StoreError, match="Of artifact 'v/1' the file was altered"):
        export(store, uids, tmp_path / "a.db")
    assert not (tmp_path / "a.db").exists()
    assert not (tmp_path / "a.db-artifacts").exists()


def test_runs_in_mlflow(store: Store, uids: list[str], tmp_path: Path) -> None:
    uri = str(tmp_path / "mlruns")
    with warnings.catch_warnings():
        # Those of MLflow about itself and what it imports.
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        assert export_mlflow(store, uids, uri) == (uids, [])
        assert export_mlflow(store, uids, uri) == ([], uids)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
            client = MlflowClient(tracking_uri=uri)
            names = [found.name for found in client.search_experiments()]
            assert {"toy_lens", "waiting"} <= set(names)
            found = client.get_experiment_by_name("toy_lens")
            runs = {run.info.run_name: run for run in client.search_runs([found.experiment_id])}
            assert set(runs) == set(uids[1:])
            run = runs[uids[2]]
            assert run.info.status == "FINISHED"
            assert run.data.params["top_k"] == "2"
            assert run.data.params["layers"] == "[0, 2]"
            assert run.data.params["mlux.model"] == "toy"
            assert run.data.tags["paper"] == "fv"
            assert run.data.tags["mlux.run"] == uids[2]
            assert run.data.tags["mlflow.note.content"] == "made up"
            assert run.data.tags["mlux.weights_hash"] == "ab" * 32
            by_layer = client.get_metric_history(run.info.run_id, "logit_diff")
            assert {m.step: m.value for m in by_layer} == pytest.approx(means(store, uids[2]))
            head = client.get_metric_history(run.info.run_id, "head_score.head_1")
            assert sorted(m.step for m in head) == [0, 1, 2]
            control = "logit_diff.site_a_ control_random"
            assert len(client.get_metric_history(runs[uids[1]].info.run_id, control)) == 3
            (file,) = client.list_artifacts(run.info.run_id, "run/v_1")
            assert file.path.endswith(".safetensors")


def means(store: Store, uid: str) -> dict[int, float]:
    frame = compare.layer_results([uid], metric="logit_diff", db=store)
    return {int(layer): value for layer, value in frame.groupby("layer")["value"].mean().items()}


def test_an_optional_package_that_is_missing_is_named(
    store: Store, uids: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pyarrow", "mlflow", "mlflow.exceptions"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StoreError, match=r"pip install 'mlux\[arrow\]'"):
        export(store, uids, tmp_path / "tables")
    assert not (tmp_path / "tables").exists()
    with pytest.raises(StoreError, match=r"pip install 'mlux\[arrow\]'"):
        export(store, uids, tmp_path / "a.parquet")
    with pytest.raises(StoreError, match=r"pip install 'mlux\[mlflow\]'"):
        export_mlflow(store, uids, str(tmp_path / "mlruns"))


def test_the_file_opens_in_sqlite_itself(store: Store, uids: list[str], tmp_path: Path) -> None:
    query = "SELECT model, count(*) FROM results GROUP BY model ORDER BY model"
    store.close()
    with closing(sqlite3.connect(f"file:{tmp_path}/lab.db?mode=ro", uri=True)) as connection:
        assert connection.execute(query).fetchall() == [("big", 104), ("toy", 52)]


def test_typed_by_a_person(cli: Any, recorded_db: Path, tmp_path: Path) -> None:
    db = ("--db", recorded_db)
    done = cli(*db, "export", "-o", tmp_path / "some.csv", "--where", "model ~ '4bit'")
    assert (done.stdout, done.stderr) == (f"{tmp_path}/some.csv\n", "")
    assert set(pd.read_csv(tmp_path / "some.csv")["model"]) == {"demo-4bit"}
    for arguments, said, code in (
        ((), "Give -o FILE_OR_DIR, or --mlflow DIR_OR_URI.", 2),
        (("-o", "a.csv", "nope"), "No run named 'nope'.", 1),
        (("-o", "a.csv", "--where", "seed = 77"), "There are no such runs", 1),
        (("-o", "a.txt"), "No kind of file named '.txt'.", 1),
    ):
        done = cli(*db, "export", *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert said in done.stderr


def test_exporting_is_not_paid_for_by_others(recorded_db: Path) -> None:
    code = "import sys, mlux.export.tracking, mlux.export; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"mlflow", "pyarrow.parquet", "mlx"} & set(done.stdout.split())


def test_an_interrupted_folder_does_not_stay(
    store: Store, uids: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlux.export.tables.compare.predictions", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(store, uids, tmp_path / "tables", table_format="csv")
    assert not (tmp_path / "tables").exists()
