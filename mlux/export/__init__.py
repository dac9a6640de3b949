"""Chosen runs for other programs: a notebook of their own, tidy tables, or an MLflow store.

What is written is new: nothing that is there already is overwritten. Parquet needs pyarrow, MLflow
its client; both are imported when they are asked for.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from mlux.errors import StoreError, UnknownNameError
from mlux.export.tables import FORMATS, write_folder, write_results
from mlux.store.session import Store

SUFFIXES = {".db": "sqlite", ".sqlite": "sqlite", ".csv": "csv", ".parquet": "parquet"}
"""What a file's name ends with → what is written into it."""
_OTHER_FILES = (
    *(".txt", ".tsv", ".json", ".jsonl", ".xls", ".xlsx", ".ods", ".html", ".md", ".pdf"),
    *(".zip", ".gz", ".tar", ".pq", ".feather", ".arrow", ".pkl", ".npz", ".duckdb", ".h5"),
)
# Any other dot is part of a folder's name, as in `results.v2`.


def export(
    store: Store, runs: Sequence[str], out: str | Path, *, table_format: str = "parquet"
) -> list[Path]:
    """Writes runs to a file or folder.

    Args:
        store: The notebook.
        runs: Uids of the runs.
        out: `NAME.db` or `NAME.sqlite`: a notebook with these runs and their artifacts.
            `NAME.parquet` or `NAME.csv`: every number of these runs, one a row. Any other name is a
            folder of tables: runs, metrics, prompts, results, predictions and generations.
        table_format: Of a folder's tables: `parquet` or `csv`.

    Returns:
        The files and folders that were made.

    Raises:
        StoreError: If something is there already, or cannot be written.
        UnknownNameError: If the suffix or the format is none of these.
    """
    path = Path(out)
    suffix = path.suffix.lower()
    kind = SUFFIXES.get(suffix, "folder")
    slip = suffix in _OTHER_FILES or bool(get_close_matches(suffix, SUFFIXES, cutoff=0.75))
    if kind == "folder" and slip and not str(out).endswith("/"):
        raise UnknownNameError("kind of file", path.suffix, SUFFIXES, "End it in / for a folder.")
    if table_format not in FORMATS:
        raise UnknownNameError("format of tables", table_format, FORMATS)
    if path.exists() or path.is_symlink():
        raise StoreError(f"{out} is there already; choose another name, or remove it first.")
    if not path.absolute().parent.is_dir():
        raise StoreError(f"Cannot write {out}: there is no folder {str(path.parent)!r}.")
    try:
        if kind == "sqlite":
            return _write_notebook(store, runs, path)
        if kind == "folder":
            return write_folder(store, runs, path, table_format)
        return write_results(store, runs, path, kind)
    except OSError as error:
        raise StoreError(f"Cannot write {out}: {error.strerror or error}.") from error


def _write_notebook(store: Store, runs: Sequence[str], path: Path) -> list[Path]:
    """A notebook of these runs; if not all of it can be made, none of it stays."""
    import shutil

    from mlux.store import artifacts
    from mlux.store.merge import merge

    with Store.open(path, write=True) as copy:
        folder = artifacts.folder(copy)
        if folder.exists():
            path.unlink()
            raise StoreError(f"{folder} is there already; choose another name for {path}.")
        try:
            url = store.engine.url.render_as_string(hide_password=False)
            done = merge(copy, store.path or url, runs=runs)
            if done.refused:
                uid, reason = next(iter(done.refused.items()))
                raise StoreError(f"Cannot export run {uid}: {reason}")
        except BaseException:
            copy.close()
            path.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return [path, *([folder] if folder.exists() else [])]
