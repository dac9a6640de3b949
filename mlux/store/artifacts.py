"""Arrays beside the database: safetensors files that are called by the hash of their content.

`mlux.db` has the folder `mlux.db-artifacts`, which follows when the file is renamed; a server's
database has `$MLUX_ARTIFACTS`, or a folder of its own below `~/.local/share/mlux`. A file is
written whole under another name, forced to the disk and then renamed, before the row that refers
to it commits; so a row always has its file, and what a killed process leaves behind is a file
without a row, which `mlux db gc` removes.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from mlux.errors import StoreError, UnknownNameError
from mlux.results import Artifact
from mlux.store.reader import resolve_run
from mlux.store.session import Store, insert, opened

VARIABLE = "MLUX_ARTIFACTS"
SUFFIX = ".safetensors"
PARTIAL = ".partial"
_FOLDER = "-artifacts"
_THIS_MACHINE = (None, "", "localhost", "127.0.0.1", "::1")

# safetensors writes several entries of metadata in random order, which would give equal arrays
# different hashes; so all of it is one entry.
_METADATA = "mlux"

_COLUMNS = "run_id, trial, name, kind, sha256, bytes"

# Any number that no other lock of the same PostgreSQL database has.
_ADVISORY_LOCK = 0x6D6C7579


class UnusableError(StoreError):
    """Another notebook's artifact that cannot be taken: the file is not there, or not it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """An artifact whose file is there.

    Attributes:
        trial: The trial that it belongs to; None if it is of the whole run.
        sha256: The hash of the file, in hexadecimal digits.
        bytes: Its size.
    """

    artifact: Artifact
    trial: int | None
    sha256: str
    bytes: int


def folder(store: Store) -> Path:
    """Where a notebook's artifacts are; it need not be there yet."""
    if store.path is not None:
        home = beside(store.path)
        return home if home.exists() else _left_behind(store, home)
    if named := os.environ.get(VARIABLE):
        return Path(named)
    url = store.engine.url
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    host = "localhost" if url.host in _THIS_MACHINE else url.host
    return data / "mlux" / f"{url.database}@{host}-artifacts"


def beside(path: Path) -> Path:
    """The folder of the artifacts of a database file."""
    return path.with_name(path.name + _FOLDER)


def _left_behind(store: Store, home: Path) -> Path:
    """The folder of a database that was renamed without it; `home` if there is none.

    It is one beside it whose own database is gone, and that has every file that this one refers to.
    A store that is open for writing takes it over, so that no later database of the old name does.
    """
    orphans = [
        folder
        for folder in sorted(home.parent.glob(f"*{_FOLDER}"))
        if not folder.with_name(folder.name.removesuffix(_FOLDER)).exists()
    ]
    if not orphans:
        return home
    with store.reading() as connection:
        files = connection.execute(sa.text("SELECT DISTINCT sha256, bytes FROM artifacts")).all()
    for folder in orphans:
        if files and all(_is_there(path_of(folder, sha256), size) for sha256, size in files):
            if not (store.writable and os.access(home.parent, os.W_OK)):
                return folder
            try:
                return folder.rename(home)
            except FileNotFoundError:  # another process was faster
                return home
    return home


def path_of(home: Path, sha256: str) -> Path:
    """The file of a hash: 256 folders by its first two digits."""
    return home / sha256[:2] / (sha256 + SUFFIX)


def place(home: Path, artifact: Artifact, trial: int | None = None) -> Placed:
    """Writes an artifact's file, unless one of the same content is there.

    Raises:
        StoreError: If an array is of a kind that the format lacks, or the disk refuses.
    """
    partial = home / f"{secrets.token_hex(8)}{PARTIAL}"
    try:
        arrays = {name: _storable(artifact, name) for name in artifact.arrays}
        text = json.dumps(dict(artifact.metadata), sort_keys=True, ensure_ascii=False)
        home.mkdir(parents=True, exist_ok=True)
        try:
            save_file(arrays, partial, {_METADATA: text})
            digest, size = _hash_to_disk(partial)
            target = path_of(home, digest)
            if not _is_there(target, size):
                target.parent.mkdir(exist_ok=True)
                partial.replace(target)
                _sync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StoreError(f"Cannot write artifact {artifact.name!r} to {home}: {reason}.") from error
    return Placed(artifact=artifact, trial=trial, sha256=digest, bytes=size)


def _storable(artifact: Artifact, name: str) -> Any:
    array = np.ascontiguousarray(artifact.arrays[name]).reshape(np.shape(artifact.arrays[name]))
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise StoreError(
            f"Artifact {artifact.name!r}: array {name!r} is of {array.dtype}; "
            "give floats, integers or booleans of at most 64 bits."
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _hash_to_disk(path: Path) -> tuple[str, int]:
    """Forces a file to the disk; its hash and size."""
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return digest, file.seek(0, os.SEEK_END)


def _is_there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _sync_folder(path: Path) -> None:
    """Makes the names of a folder's files last; Windows does so by itself."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def insert_rows(
    connection: sa.Connection, home: Path, run: int, placed: Sequence[Placed], tail: str = ""
) -> None:
    """Files artifacts in a writing transaction, and sees that their files are still there.

    Between its writing and this transaction a file has no row, and `gc` may have removed it. `gc`
    removes under the lock that this transaction holds, so a file that is there now stays.
    """
    hold(connection, exclusive=False)
    for one in placed:
        if not _is_there(path_of(home, one.sha256), one.bytes):
            place(home, one.artifact)
    rows = [(run, p.trial, p.artifact.name, p.artifact.kind, p.sha256, p.bytes) for p in placed]
    insert(connection, "artifacts", _COLUMNS, rows, tail)


def bring(source: Path, home: Path, sha256: str, size: int) -> None:
    """Copies an artifact's file from another folder, unless it is here; its hash is checked.

    Args:
        source: The other folder.
        home: The folder of the notebook that gets it.
        sha256: Its hash, as the other notebook says.
        size: Its bytes, likewise.

    Raises:
        UnusableError: If there is no such file, or it is not what was written.
        StoreError: If the disk refuses.
    """
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UnusableError(f"{sha256[:20]!r} is no hash of a file")
    target, file = path_of(home, sha256), path_of(source, sha256)
    if _is_there(target, size):
        return
    if not file.is_file() or file.stat().st_size != size:
        wrong = "was altered" if file.exists() else "is missing"
        raise UnusableError(f"the file {wrong}: {file}")
    partial = home / f"{secrets.token_hex(8)}{PARTIAL}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(file, partial)
            if _hash_to_disk(partial)[0] != sha256:
                raise UnusableError(f"the file was altered: {file}")
            target.parent.mkdir(exist_ok=True)
            partial.replace(target)
            _sync_folder(target.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"Cannot copy {file} to {home}: {error.strerror}.") from error


def hold(connection: sa.Connection, *, exclusive: bool) -> None:
    """Keeps `gc` and writers of artifacts apart until the transaction ends.

    On SQLite the transaction itself does.
    """
    if connection.dialect.name == "postgresql":
        lock = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
        connection.execute(sa.text(f"SELECT {lock}({_ADVISORY_LOCK})"))


def load(
    db: "str | Path | Store | None", run: str, name: str, *, trial: int | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an artifact, once its file has been checked against its hash.

    Args:
        db: The notebook: a path, a URL or an open store; None is `$MLUX_DB`, else `mlux.db`.
        run: A uid, the start of one, `latest` or `latest:EXPERIMENT`.
        name: The artifact's name.
        trial: The trial that it belongs to; None for one of the whole run.

    Returns:
        Name → array, in the dtype and shape in which it was stored.

    Raises:
        UnknownNameError: If there is no such run or artifact.
        StoreError: If the file is missing, or is not what was written.

    Example:
        >>> import tempfile
        >>> from mlux import load_artifact, run_experiment
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     db, params = f"{folder}/mlux.db", {"steps": 2}
        ...     run = run_experiment("tuned_lens", model="demo", params=params, db=db)
        ...     load_artifact(db, run.uid, "tuned_lens.0")["weight"].shape
        (5, 128, 128)
    """
    with opened(db) as store:
        path = _checked_file(store, run, name, trial)
    with _as_arrays(path):
        return load_file(path)


def load_metadata(
    db: "str | Path | Store | None", run: str, name: str, *, trial: int | None = None
) -> dict[str, str]:
    """What an experiment said of an artifact; arguments and errors as of `load`."""
    with opened(db) as store:
        path = _checked_file(store, run, name, trial)
    with _as_arrays(path), safe_open(path, framework="np") as file:
        stored: dict[str, str] = json.loads(file.metadata()[_METADATA])
    return stored


@contextmanager
def _as_arrays(path: Path) -> Iterator[None]:
    """Turns what a file is that holds no arrays, though its hash is as it should be, into a word.

    Raises:
        StoreError: If it cannot be read so.
    """
    try:
        yield
    except (SafetensorError, ValueError, KeyError, TypeError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise StoreError(f"The file of an artifact holds no arrays: {path} ({reason}).") from error


def _checked_file(store: Store, run: str, name: str, trial: int | None) -> Path:
    uid = resolve_run(store, run)
    rows = list_artifacts(store, uid)
    found = [row for row in rows if row["name"] == name and row["trial"] == trial]
    if not found:
        of = "the run" if trial is None else f"trial {trial}"
        names = {row["name"] for row in rows if row["trial"] == trial}
        raise UnknownNameError(f"artifact of {of}", name, names, f"Run {uid} has none there.")
    path = path_of(folder(store), found[0]["sha256"])
    if (wrong := wrong_with(path, found[0]["sha256"])) is not None:
        raise StoreError(f"Artifact {name!r} of run {uid} {wrong}.")
    return path


def wrong_with(path: Path, sha256: str) -> str | None:
    """What is wrong with an artifact's file, as the end of a sentence; None if nothing is."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return f"has lost its file, {path}"
    except OSError as error:
        return f"cannot be read: {path}: {error.strerror}"
    return None if digest == sha256 else f"was altered: {path} is not what was written"


def list_artifacts(store: Store, uid: str) -> list[dict[str, Any]]:
    """The artifacts of a run: `trial name kind bytes sha256`, those of the whole run first."""
    query = """
    SELECT a.trial, a.name, a.kind, a.bytes, a.sha256
    FROM artifacts AS a JOIN runs AS r ON r.id = a.run_id WHERE r.uid = :uid
    ORDER BY coalesce(a.trial, -1), a.name
    """
    with store.reading() as connection:
        found = connection.execute(sa.text(query), {"uid": uid}).mappings()
        return [dict(row) for row in found]
