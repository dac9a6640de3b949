"""Tidy tables as Parquet or CSV: names in every row, one number a row, run after run."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from mlux import compare
from mlux.errors import StoreError
from mlux.store.reader import list_runs
from mlux.store.session import Store

FORMATS = ("parquet", "csv")

_METRICS = """
SELECT m.name, m.unit, m.better, m.description FROM run_metrics AS r
JOIN metrics AS m ON m.id = r.metric_id WHERE r.run_id IN :runs ORDER BY r.run_id, r.place
"""
_PROMPTS = """
SELECT DISTINCT r.uid AS run, p.text AS prompt, p.corrupted, p.answer, p.wrong_answer, p.subject,
  p.label, p.template, p.token_ids, p.content_hash
FROM trials AS t JOIN runs AS r ON r.id = t.run_id JOIN prompts AS p ON p.id = t.prompt_id
WHERE r.id IN :runs ORDER BY 1, 2, p.content_hash
"""


def write_results(store: Store, runs: Sequence[str], path: Path, kind: str) -> list[Path]:
    """Every number of these runs in one file."""
    return [_write(path, kind, (compare.layer_results([run], db=store) for run in runs))]


def write_folder(store: Store, runs: Sequence[str], folder: Path, kind: str) -> list[Path]:
    """One file a table; if not all of them can be written, none of the folder stays."""
    if kind == "parquet":
        _pyarrow()  # before the folder is made
    folder.mkdir()
    try:
        return _write_tables(store, runs, folder, kind)
    except BaseException:  # Ctrl-C too: half a folder would pass for all of it
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_tables(store: Store, runs: Sequence[str], folder: Path, kind: str) -> list[Path]:
    """Runs, metrics, prompts, results, predictions, generations."""
    listed = compare.runs(store)
    listed = listed[listed["run"].isin(list(runs))].reset_index(drop=True)
    # A parameter may be a list in one run and a number in another; a column has one type.
    params = {run["run"]: run["params"] for run in list_runs(store)}
    for name in (name for name in listed.columns if name.startswith("params.")):
        option = name.removeprefix("params.")
        listed[name] = [_as_text(params[run].get(option)) for run in listed["run"]]
    tables: dict[str, Iterator[pd.DataFrame]] = {
        "runs": iter([listed]),
        "metrics": iter([_query(store, _METRICS, runs).drop_duplicates(ignore_index=True)]),
        "prompts": iter([_query(store, _PROMPTS, runs)]),
        "results": (compare.layer_results([run], db=store) for run in runs),
        "predictions": (compare.predictions([run], db=store) for run in runs),
        "generations": (compare.generations([run], db=store) for run in runs),
    }
    return [_write(folder / f"{name}.{kind}", kind, frames) for name, frames in tables.items()]


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _query(store: Store, query: str, runs: Sequence[str]) -> pd.DataFrame:
    statement = sa.text(query).bindparams(sa.bindparam("runs", expanding=True))
    find = sa.text("SELECT id FROM runs WHERE uid IN :uids")
    find = find.bindparams(sa.bindparam("uids", expanding=True))
    with store.reading() as connection:
        keys = list(connection.execute(find, {"uids": list(runs)}).scalars())
        result = connection.execute(statement, {"runs": keys})
        return pd.DataFrame(result.all(), columns=list(result.keys()))


def _write(path: Path, kind: str, frames: Iterator[pd.DataFrame]) -> Path:
    """Writes frames one below the other; only one of them is in memory."""
    if kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            for number, frame in enumerate(map(_scalars, frames)):
                frame.to_csv(file, index=False, header=number == 0, lineterminator="\n")
        return path
    arrow, parquet = _pyarrow()
    writer = None
    try:
        for frame in map(_scalars, frames):
            plain, times = _plain(frame)
            table = arrow.Table.from_pandas(plain, preserve_index=False)
            if writer is None:
                schema = _schema(arrow, table.schema, times)
                writer = parquet.ParquetWriter(path, schema, compression="zstd")
            writer.write_table(table.cast(schema))
    finally:
        if writer is not None:
            writer.close()
    return path


def _scalars(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with JSON in the cells that hold a list or a mapping."""
    for name in frame.columns:
        values = frame[name]
        if pd.api.types.is_object_dtype(values) and any(map(_is_nested, values)):
            frame = frame.assign(**{str(name): [_as_json(value) for value in values]})
    return frame


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | tuple | dict)


def _as_json(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if _is_nested(value) else value


def _plain(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Categories as texts, since those of two runs differ, and times without their zone.

    Returns:
        The frame, and the names of the times, which are in UTC.
    """
    names = frame.select_dtypes("category").columns
    times = [str(name) for name in frame.select_dtypes("datetimetz").columns]
    plain = frame.astype(dict.fromkeys(names, "str"))
    for name in times:
        plain[name] = plain[name].dt.tz_convert(None)
    return plain, times


def _schema(arrow: Any, schema: Any, times: list[str]) -> Any:
    """A schema in which times are in UTC and a column that is empty so far is one of texts."""
    types = {name: arrow.timestamp("us", tz="UTC") for name in times}
    types |= {field.name: arrow.string() for field in schema if arrow.types.is_null(field.type)}
    return arrow.schema([field.with_type(types.get(field.name, field.type)) for field in schema])


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise StoreError("Parquet needs pyarrow: pip install 'mlux[arrow]'") from error
    return pyarrow, pyarrow.parquet
