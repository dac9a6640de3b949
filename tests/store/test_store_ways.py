"""One database by whichever way it is reached: its runs, artifacts and backups are the same."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from synthetic import make_environment, make_finished, make_spec, token_text

from mlux.errors import StoreError
from mlux.export import export
from mlux.results import Artifact
from mlux.store import RunWriter, Store, artifacts, create_run, list_runs, query, soundness
from mlux.store.backup import back_up
from mlux.store.garbage import collect_garbage
from mlux.store.merge import merge

Way = Callable[[Path], str | Path]


def _through_a_link(db: Path) -> Path:
    (db.parent.parent / "elsewhere").mkdir()
    link = db.parent.parent / "elsewhere" / "link.db"
    link.symlink_to(db)
    return link


def _through_two_links(db: Path) -> Path:
    link = db.parent.parent / "second.db"
    link.symlink_to(_through_a_link(db))
    return link


def _through_a_relative_link(db: Path) -> Path:
    link = db.parent.parent / "near.db"
    link.symlink_to(Path(db.parent.name) / db.name)
    return link


def _through_a_linked_folder(db: Path) -> Path:
    """As a mount that is seen under two names."""
    mount = db.parent.parent / "mount"
    mount.symlink_to(db.parent, target_is_directory=True)
    return mount / db.name


def _up_out_of_a_linked_folder(db: Path) -> Path:
    """Two dots lead to where the link leads, not to where it lies."""
    (db.parent / "inner").mkdir()
    mount = db.parent.parent / "mount"
    mount.symlink_to(db.parent / "inner", target_is_directory=True)
    return mount / ".." / db.name


WAYS: dict[str, Way] = {
    "its path": lambda db: db,
    "a text": str,
    "a relative path": lambda db: os.path.relpath(db),
    "two dots": lambda db: db.parent / ".." / db.parent.name / "." / db.name,
    "a link": _through_a_link,
    "two links": _through_two_links,
    "a relative link": _through_a_relative_link,
    "a linked folder": _through_a_linked_folder,
    "up out of a linked folder": _up_out_of_a_linked_folder,
    "a URL": lambda db: f"sqlite:///{db}",
    "a URL of a link": lambda db: f"sqlite:///{_through_a_link(db)}",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database's folder; the working directory is another one, beside it."""
    for name in ("here", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


def keep(location: str | Path, number: int) -> str:
    """Adds a run with an artifact whose content is this number; its uid."""
    with Store.open(location, write=True) as store:
        uid = create_run(store, make_spec(n_prompts=1))
        writer = RunWriter(store, uid, token_text)
        writer.start(make_environment())
        content = {"x": np.full(3, number)}
        writer.put_artifacts([Artifact(name="vector", kind="vectors", arrays=content)])
        writer.write([make_finished(0)])
        writer.finish("done")
    return uid


def found(location: str | Path, uid: str) -> list[int]:
    return artifacts.load(location, uid, "vector")["x"].tolist()


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_what_was_made_one_way_is_there_the_other_way(home: Path, way: Way, tmp_path: Path) -> None:
    db = home / "mlux.db"
    first = keep(db, 1)
    other = way(db)
    second = keep(other, 2)
    for number, location in enumerate((db, other)):
        assert found(location, first) == [1] * 3
        assert found(location, second) == [2] * 3
        with Store.open(location) as store:
            assert soundness.check(store) == []
            assert len(query(store, "SELECT run FROM run_overview")[1]) == 2
            export(store, [first, second], tmp_path / f"copy{number}.db")
    with Store.open(other, write=True) as store:
        assert collect_garbage(store).files == ()
        copy = back_up(store)
        assert copy.parent.samefile(home)
    assert found(copy, second) == [2] * 3
    assert {path.name for path in home.iterdir()} - {"inner"} == {
        *("mlux.db", "mlux.db-artifacts", copy.name, f"{copy.name}-artifacts"),
    }


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_a_database_is_not_merged_into_itself(home: Path, way: Way) -> None:
    db = home / "mlux.db"
    keep(db, 1)
    other = way(db)
    with (
        Store.open(db, write=True) as store,
        pytest.raises(StoreError, match="cannot be merged into itself"),
    ):
        merge(store, other)


@pytest.mark.parametrize("way", ["a relative path", "a link", "a linked folder"], indirect=True)
def test_an_open_database_stays_the_one_that_was_opened(
    home: Path, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = home / "mlux.db"
    first = keep(db, 1)
    location = way(db)
    with Store.open(location, write=True) as store:
        monkeypatch.chdir(tmp_path)
        for path in (Path(location), Path(location).parent):
            if path.is_symlink():
                path.unlink()
        store.engine.dispose()  # every connection from here on is a new one
        uid = create_run(store, make_spec(n_prompts=1))
        writer = RunWriter(store, uid, token_text)
        writer.start(make_environment())
        writer.put_artifacts([Artifact(name="vector", kind="vectors", arrays={"x": np.full(3, 5)})])
        writer.write([make_finished(0)])
        writer.finish("done")
    assert found(db, uid) == [5] * 3
    assert found(db, first) == [1] * 3


def test_a_link_to_nothing_makes_the_database_where_it_leads(home: Path) -> None:
    link = home.parent / "link.db"
    link.symlink_to(home / "mlux.db")
    uid = keep(link, 1)
    assert found(home / "mlux.db", uid) == [1] * 3
    assert not (home.parent / "link.db-artifacts").exists()


def test_links_in_a_circle_are_said(home: Path) -> None:
    one, other = home / "one.db", home / "other.db"
    one.symlink_to(other)
    other.symlink_to(one)
    for write in (False, True):
        with pytest.raises(StoreError, match=r"Cannot open .*one\.db: .*symbolic links"):
            Store.open(one, write=write)


def test_a_file_with_hard_links_is_read_and_not_written(home: Path) -> None:
    db = home / "mlux.db"
    uid = keep(db, 1)
    other = home.parent / "hard.db"
    os.link(db, other)
    for location in (db, other):
        with pytest.raises(StoreError, match=r"has other names \(hard links\)\. Make a copy"):
            Store.open(location, write=True)
        with Store.open(location) as store:
            assert [run["run"] for run in list_runs(store)] == [uid]
    assert found(db, uid) == [1] * 3
    assert not list(home.parent.glob("hard.db-*"))
    other.unlink()
    keep(db, 2)


def test_a_moved_folder_takes_its_artifacts_along(home: Path) -> None:
    uid = keep(home / "mlux.db", 1)
    moved = home.rename(home.parent / "moved")
    assert found(moved / "mlux.db", uid) == [1] * 3
    second = keep(moved / "mlux.db", 2)
    assert found(moved / "mlux.db", second) == [2] * 3


def test_a_renamed_database_keeps_its_artifacts(home: Path) -> None:
    first = keep(home / "old.db", 1)
    db = (home / "old.db").rename(home / "new.db")
    # Reading changes nothing, writing brings the folder along.
    assert found(db, first) == [1] * 3
    assert (home / "old.db-artifacts").exists()
    with Store.open(db) as store:
        assert soundness.check(store) == []
    second = keep(db, 2)
    assert sorted(path.name for path in home.iterdir()) == ["new.db", "new.db-artifacts"]
    later = keep(home / "old.db", 3)
    with Store.open(home / "old.db", write=True) as store:
        assert collect_garbage(store).files == ()
    assert [found(db, uid) for uid in (first, second)] == [[1] * 3, [2] * 3]
    assert found(home / "old.db", later) == [3] * 3


def test_a_folder_of_another_database_is_left_alone(home: Path) -> None:
    """Be it one in use, or one whose database is away and holds something else."""
    other = keep(home / "other.db", 1)
    keep(home / "away.db", 2)
    away = (home / "away.db").rename(home.parent / "away.db")
    uid = keep(home / "mlux.db", 3)
    (home / "mlux.db-artifacts").rename(home.parent / "lost")
    with pytest.raises(StoreError, match="has lost its file"):
        found(home / "mlux.db", uid)
    keep(home / "mlux.db", 4)
    assert found(home / "other.db", other) == [1] * 3
    assert (home / "away.db-artifacts").exists()
    away.rename(home / "away.db")
    with Store.open(home / "away.db") as store:
        assert soundness.check(store) == []


@pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1", "[::1]"])
def test_a_server_of_this_machine_has_one_folder(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sa.create_engine("sqlite://")
    monkeypatch.setattr(engine, "url", sa.make_url(f"postgresql+psycopg://me@{host}/probes"))
    monkeypatch.delenv("MLUX_ARTIFACTS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    server = Store("probes", None, engine, writable=True)
    assert artifacts.folder(server) == tmp_path / "mlux" / "probes@localhost-artifacts"
