"""Arrays come back bit for bit, and a file that was lost or altered is never taken for one."""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from safetensors.numpy import load_file
from synthetic import make_environment, make_finished, make_spec, token_text

import mlux
from mlux.errors import StoreError, UnknownNameError
from mlux.results import Artifact
from mlux.store import (
    FinishedTrial,
    RunWriter,
    Store,
    artifact_summary,
    artifacts,
    create_run,
    load_run,
)

VECTOR = Artifact(
    name="direction",
    kind="vectors",
    arrays={"layer.3": np.arange(6, dtype=np.float32), "norm": np.array(2.5)},
    metadata={"layer": "3", "strength": "0.5", "of": "sentiment – é"},
)


def pattern(trial: int) -> Artifact:
    return Artifact(name="pattern", kind="patterns", arrays={"p": np.full((2, 3), trial)})


def started(store: Store, **changes: Any) -> tuple[str, RunWriter]:
    uid = create_run(store, make_spec(**changes))
    writer = RunWriter(store, uid, token_text)
    writer.start(make_environment())
    return uid, writer


def files(store: Store) -> list[Path]:
    return sorted(p for p in artifacts.folder(store).rglob("*") if p.is_file())


def test_arrays_come_back_bit_for_bit(store: Store, location: str) -> None:
    uid, writer = started(store)
    kinds = ["float16", "float32", "float64", "int8", "int16", "int64", "uint8", "uint32", "bool"]
    rng = np.random.default_rng(0)
    arrays = {kind: (rng.normal(size=(3, 4)) * 10).astype(kind) for kind in kinds}
    arrays |= {"view": arrays["float32"].T[::2], "empty": np.zeros((0, 3)), "one": np.float32(1)}  # type: ignore[dict-item] # a scalar is an array too
    arrays["float64"][0, 0], arrays["float64"][0, 1] = np.nan, np.inf
    writer.put_artifacts([Artifact(name="all", kind="vectors", arrays=arrays)])
    found = artifacts.load(location, uid, "all")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array)
    assert mlux.load_artifact is artifacts.load


def test_artifacts_of_runs_and_trials(store: Store) -> None:
    uid, writer = started(store)
    writer.put_artifacts([VECTOR])
    trials = [FinishedTrial(trial=t, results=[pattern(t % 2)]) for t in range(3)]
    writer.write([*trials, FinishedTrial(trial=3, results=[VECTOR], error="no")])
    assert [(a["trial"], a["name"]) for a in artifacts.list_artifacts(store, uid)] == [
        (None, "direction"),
        (0, "pattern"),
        (1, "pattern"),
        (2, "pattern"),
    ]
    assert [tuple(row.values())[:3] for row in artifact_summary(store, uid)] == [
        ("direction", "vectors", 0),
        ("pattern", "patterns", 3),
    ]
    assert artifacts.load(store, "latest", "pattern", trial=1)["p"].tolist() == [[1] * 3] * 2
    assert artifacts.load_metadata(store, uid, "direction") == VECTOR.metadata
    # Equal content is one file, which any program that knows the format reads.
    assert len(files(store)) == 3
    assert all(path.parent.name == path.name[:2] for path in files(store))
    assert {frozenset(load_file(path)) for path in files(store)} == {
        frozenset({"p"}),
        frozenset({"layer.3", "norm"}),
    }


def test_equal_content_has_one_hash(store: Store) -> None:
    home = artifacts.folder(store)
    many = {str(i): str(i) for i in range(20)}
    one = Artifact(name="a", kind="k", arrays={"x": np.ones(2), "y": np.zeros(3)}, metadata=many)
    arrays = dict(reversed(one.arrays.items()))
    other = Artifact(name="b", kind="j", arrays=arrays, metadata=dict(reversed(many.items())))
    assert artifacts.place(home, one).sha256 == artifacts.place(home, other).sha256
    assert len(files(store)) == 1


def test_what_is_not_there_is_said_with_what_is(store: Store) -> None:
    uid, writer = started(store)
    writer.put_artifacts([VECTOR])
    with pytest.raises(
        UnknownNameError, match=r"artifact of the run named 'directon'\. Did you mean"
    ):
        artifacts.load(store, uid, "directon")
    with pytest.raises(UnknownNameError, match=f"artifact of trial 2 .* Run {uid} has none there"):
        artifacts.load(store, uid, "direction", trial=2)


def test_a_file_that_was_lost_or_altered_is_refused(store: Store) -> None:
    uid, writer = started(store)
    writer.put_artifacts([VECTOR])
    (path,) = files(store)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=f"'direction' of run {uid} was altered: .*{path.name}"):
        artifacts.load(store, uid, "direction")
    path.unlink()
    with pytest.raises(StoreError, match="has lost its file"):
        artifacts.load(store, uid, "direction")


def test_a_resumed_run_makes_its_artifacts_again(store: Store) -> None:
    uid, writer = started(store)
    writer.put_artifacts([VECTOR])
    writer.put_artifacts([VECTOR])
    assert len(artifacts.list_artifacts(store, uid)) == 1
    other = Artifact(name="direction", kind="vectors", arrays={"layer.3": np.zeros(6)})
    writer.put_artifacts([other])
    np.testing.assert_array_equal(
        artifacts.load(store, uid, "direction")["layer.3"], VECTOR.arrays["layer.3"]
    )
    event = load_run(store, uid).events[-1]
    assert (event.kind, event.message) == (
        "differs",
        "made again, artifact 'direction' is not as it was",
    )


def test_two_of_one_name_are_refused_with_their_batch(store: Store) -> None:
    uid, writer = started(store)
    with pytest.raises(StoreError, match="two artifacts of one name"):
        writer.put_artifacts([VECTOR, VECTOR])
    with pytest.raises(StoreError, match="a result is there twice"):
        writer.write([make_finished(1), FinishedTrial(trial=0, results=[pattern(0), pattern(1)])])
    assert load_run(store, uid).pending == (0, 1, 2, 3)
    assert artifacts.list_artifacts(store, uid) == []


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1j]), np.array([object()])])
def test_what_the_format_lacks_is_refused(store: Store, array: Any) -> None:
    _, writer = started(store)
    with pytest.raises(StoreError, match=r"'odd': array 'x' is of .*; give floats, integers"):
        writer.put_artifacts([Artifact(name="odd", kind="k", arrays={"x": array})])


def test_a_file_taken_away_before_its_row_commits_is_put_back(store: Store) -> None:
    # As `gc` may do between the writing of the file and the transaction of the row.
    uid, _ = started(store)
    home = artifacts.folder(store)
    placed = artifacts.place(home, VECTOR)
    files(store)[0].unlink()
    with store.writing() as connection:
        run = connection.execute(sa.text("SELECT id FROM runs")).scalar_one()
        artifacts.insert_rows(connection, home, run, [placed])
    assert artifacts.load(store, uid, "direction")["norm"] == 2.5


def test_a_disk_that_refuses_is_one_line(store: Store) -> None:
    _, writer = started(store)
    home = artifacts.folder(store)
    home.write_text("in the way")
    with pytest.raises(StoreError, match=f"Cannot write artifact 'direction' to {home}: "):
        writer.put_artifacts([VECTOR])


def test_writers_at_once_write_one_file(store: Store) -> None:
    home = artifacts.folder(store)
    threads = [threading.Thread(target=artifacts.place, args=(home, VECTOR)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files(store)) == 1


def test_a_server_has_its_folder_where_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = sa.create_engine("sqlite://")
    monkeypatch.setattr(engine, "url", sa.make_url("postgresql+psycopg://me@lab.example/probes"))
    server = Store("postgresql+psycopg://me@lab.example/probes", None, engine, writable=True)
    monkeypatch.delenv("MLUX_ARTIFACTS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert artifacts.folder(server) == tmp_path / "mlux" / "probes@lab.example-artifacts"
    monkeypatch.setenv("MLUX_ARTIFACTS", os.fspath(tmp_path / "shared"))
    assert artifacts.folder(server) == tmp_path / "shared"
