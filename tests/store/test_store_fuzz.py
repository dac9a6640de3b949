"""Ten thousand hostile inputs: no traceback, no write, no injection."""

import hashlib
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from fuzzing import everything
from synthetic import make_environment, make_spec, token_text, write_run

from mlux import prompts
from mlux.errors import MluxError, StoreError
from mlux.results import Artifact
from mlux.store import RunWriter, Store, artifacts, create_run, query
from mlux.store.merge import merge
from mlux.store.soundness import check

WORDS = (
    *("SELECT", "INSERT", "INTO", "DELETE", "FROM", "UPDATE", "SET", "runs", "name", "*", "(", ")"),
    *(",", ";", "=", "1", "'x'", 'x"y', "WHERE", "ATTACH", "'z.db'", "AS", "DROP", "TABLE", "/*"),
    *("PRAGMA", "query_only", "OFF", "WITH", "UNION", "VALUES", "BEGIN", "COMMIT", "--", "[", "`"),
    *(
        "experiments",
        "INSERT INTO experiments VALUES (1, 'x', 'x', 'x')",
        "COPY runs TO",
        "PROGRAM",
    ),
    *("load_extension('x')", "pg_read_file('/etc/passwd')", "set_config", "$$", "E'\\'", 'U&"x"'),
    *("results", "count(*)", "LIMIT", "ORDER BY", "NULL", "-1", "1e999", "%s", "?", ":x", "$1"),
    *("RETURNING", "TRUNCATE", "DO", "CALL", "LOCK", "VACUUM", "nextval('runs_id_seq')", "\0", "é"),
)
SAFE = (
    "SELECT uid FROM runs",
    "SELECT * FROM results",
    "VALUES (1)",
    "SELECT count(*) FROM trials",
)


def fuzz_sql(store: Store, inputs: int, seed: int) -> None:
    write_run(store)
    rng = random.Random(seed)
    before = everything(store)
    answered = 0
    for _ in range(inputs):
        words = [rng.choice(WORDS) for _ in range(rng.randint(0, 9))]
        text = " ".join([rng.choice(SAFE), *words] if rng.random() < 0.4 else words)
        try:
            query(store, text, seconds=2, max_rows=5)
        except StoreError as error:
            assert "\n" not in str(error)  # noqa: PT017 # a message is one line
        else:
            answered += 1
    assert answered > inputs / 100
    assert everything(store) == before


def test_no_sql_can_write_or_crash_it(store: Store) -> None:
    fuzz_sql(store, 300, seed=0)


@pytest.mark.soak
def test_ten_thousand_statements_can_neither_write_nor_crash_it(store: Store) -> None:
    fuzz_sql(store, 10_000, seed=1)


GOOD = {
    ".txt": b"the capital of france is\n",
    ".csv": "text,answer,label\nthe sky is,blue,é\n".encode(),
    ".jsonl": b'{"text": "the sky is", "answer": "blue", "token_ids": [1, 2]}\n',
    ".json": b'[{"text": "the sky is", "template": "chat"}, "two"]',
}
PIECES = (
    *(
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\n",
        b"\r",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"-",
    ),
    *(b"null", b"true", b"1e999", b"NaN", b'"text"', b'"token_ids"', b"\\ud800", b"text", b"''"),
    *(b'{"text": 3}', b'{"nope": "x"}', b"[" * 3000, b"1" * 5000, b'"answer": ""', b"\xe2\x80\xa8"),
)


def fuzz_prompts(folder: Path, inputs: int, seed: int) -> None:
    rng = random.Random(seed)
    read = 0
    for _ in range(inputs):
        suffix = rng.choice(list(GOOD))
        data = bytearray(GOOD[suffix])
        for _ in range(rng.randint(0, 4)):
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.randint(0, 6)] = rng.choice(PIECES)
        path = folder / f"prompts{suffix}"
        path.write_bytes(bytes(data))
        try:
            found = prompts.load(path)
        except MluxError:
            continue
        read += 1
        assert found.prompts
        assert len(found.content_hash) == 64
    assert read > inputs / 20


def test_no_file_of_prompts_can_crash_it(tmp_path: Path) -> None:
    fuzz_prompts(tmp_path, 500, seed=0)
    for name, text, complaint in (
        ("long.json", f"[{'1' * 5000}]", "a number of 5000 digits is too long"),
        ("null.txt", "a\0b\n", "null character"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(MluxError, match=complaint):
            prompts.load(tmp_path / name)


@pytest.mark.soak
def test_ten_thousand_files_of_prompts_cannot_crash_it(tmp_path: Path) -> None:
    fuzz_prompts(tmp_path, 10_000, seed=1)


def fuzz_merge(folder: Path, empty: Path, inputs: int, seed: int) -> None:
    """Files with some bytes changed, or cut off, merged into a notebook that has a run already."""
    rng = random.Random(seed)
    good, bad, mine, target = (
        folder / name for name in ("good.db", "bad.db", "mine.db", "target.db")
    )
    shutil.copy(empty, good)
    shutil.copy(empty, mine)
    with Store.open(good, write=True) as other:
        write_run(other, make_spec(n_prompts=2, conditions=[{}, {"site": "a"}]))
    with Store.open(mine, write=True) as store:
        uid = write_run(store, make_spec(experiment="mine"))
        before = everything(store)
    whole = good.read_bytes()
    shutil.copy(mine, target)
    merged = refused = 0
    for _ in range(inputs):
        bad.write_bytes(damaged(whole, rng))
        with Store.open(target, write=True) as store:
            try:
                done = merge(store, bad)
            except StoreError as error:
                assert "\n" not in str(error)  # noqa: PT017 # a message is one line
                refused += 1
                continue  # and so into a notebook that has to be as it was
            merged += 1
            assert check(store) == []
            assert len(everything(store)["runs"]) == 1 + len(done.new)
            assert query(store, f"SELECT count(*) FROM results WHERE run = '{uid}'")[1] == [(52,)]
        for part in folder.glob("target.db*"):
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        shutil.copy(mine, target)
    if refused:
        bad.write_bytes(b"SQLite format 3\0")
        with Store.open(target, write=True) as store:
            with pytest.raises(StoreError):
                merge(store, bad)
            assert everything(store) == before
    assert refused > inputs / 20
    assert merged > inputs / 20


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, mostly anywhere, sometimes in the head; sometimes cut off."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(100 if rng.random() < 0.1 else len(data))
        data[at : at + 1] = bytes([rng.randrange(256)])
    if rng.random() < 0.1:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def test_no_damaged_file_can_harm_a_notebook(tmp_path: Path, empty_sqlite: Path) -> None:
    fuzz_merge(tmp_path, empty_sqlite, 60, seed=0)


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_ten_thousand_damaged_files_cannot_harm_a_notebook(
    tmp_path: Path, empty_sqlite: Path
) -> None:
    fuzz_merge(tmp_path, empty_sqlite, 10_000, seed=1)


def fuzz_artifacts(db: Path, inputs: int, seed: int) -> None:
    """Files that are altered, and files that never were arrays but have the hash that is filed."""
    rng = random.Random(seed)
    arrays = {"a": np.arange(12.0).reshape(3, 4), "b": np.ones(5, dtype=np.float16)}
    vector = Artifact(name="v", kind="vectors", arrays=arrays, metadata={"why": "é"})
    with Store.open(db, write=True) as store:
        uid = create_run(store, make_spec(n_prompts=1))
        writer = RunWriter(store, uid, token_text)
        writer.start(make_environment())
        writer.put_artifacts([vector])
        home = artifacts.folder(store)
        (file,) = home.glob(f"??/*{artifacts.SUFFIX}")
        whole, read = file.read_bytes(), 0
        for number in range(inputs):
            data = damaged(whole, rng)
            sha256 = hashlib.sha256(data if number % 2 else whole).hexdigest()
            path = artifacts.path_of(home, sha256)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
            with store.writing() as connection:
                connection.exec_driver_sql(
                    f"UPDATE artifacts SET sha256 = '{sha256}', bytes = {len(data)}"
                )
            for look in (artifacts.load, artifacts.load_metadata):
                try:
                    look(store, uid, "v")
                except StoreError as error:
                    assert "\n" not in str(error)  # noqa: PT017 # a message is one line
                else:
                    assert number % 2 or data == whole
                    read += 1
            path.unlink()
        assert read > inputs / 20


def test_no_file_of_arrays_can_crash_it(tmp_path: Path) -> None:
    fuzz_artifacts(tmp_path / "mlux.db", 100, seed=0)


@pytest.mark.soak
def test_ten_thousand_files_of_arrays_cannot_crash_it(tmp_path: Path) -> None:
    fuzz_artifacts(tmp_path / "mlux.db", 10_000, seed=1)
