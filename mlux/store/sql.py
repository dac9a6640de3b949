"""Answering a person's own SQL without letting it change anything.

On SQLite four walls stand behind each other: the file is opened read-only, `query_only` is on, an
authorizer allows nothing but reading, and a progress handler ends what takes too long. Those of
PostgreSQL are in `sql_postgres`.
"""

import sqlite3
import time
from typing import Any

from mlux.errors import StoreError
from mlux.limits import check as check_range
from mlux.store import sql_functions, sqlite_file
from mlux.store.liveness import mark_crashed
from mlux.store.session import Store

Table = tuple[list[str], list[tuple[Any, ...]]]

_READS = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_FORBIDDEN_FUNCTIONS = {"load_extension", "writefile", "readfile", "edit", "fts3_tokenizer"}
# Instructions of SQLite's machine between two looks at the clock, about a millisecond.
_STEPS = 100_000
# One call of a function may fill a cell without any such look; no text that mlux stores is longer.
_CELL_BYTES = 50_000_000
_DOES_MORE = "mlux sql only reads; the statement would do more. Begin with SELECT."


def query(store: Store, sql: str, *, max_rows: int | None = None, seconds: float = 30) -> Table:
    """The answer to one SELECT.

    Args:
        store: The notebook.
        sql: One statement that reads.
        max_rows: Stop after this many rows.
        seconds: Give up after this long, at most a day.

    Returns:
        The column names and the rows.

    Raises:
        StoreError: If the statement would write, is wrong, or takes too long.
    """
    if not sql.strip().rstrip(";").strip():
        raise StoreError("The SQL is empty. Try: SELECT * FROM run_overview")
    check_range("timeout", seconds, called="seconds")
    check_range("max_rows", max_rows)
    if "\0" in sql:
        raise StoreError("SQL: the query contains a null character.")
    mark_crashed(store)
    if store.path is None:
        return _query_postgres(store, sql, max_rows, seconds)
    # Held open, because whoever closes last tidies up, and a read-only connection cannot.
    with store.reading() as connection:
        connection.exec_driver_sql("SELECT 1 FROM alembic_version")
        options = sqlite_file.read_options(store.path).replace("mode=rw", "mode=ro")
        reader = sqlite_file.connect(store.path, options)
        try:
            return _query_sqlite(reader, sql, max_rows, seconds)
        finally:
            reader.close()


def _query_sqlite(
    reader: sqlite3.Connection, sql: str, max_rows: int | None, seconds: float
) -> Table:
    reader.execute("PRAGMA query_only = ON")
    refused: list[str] = []

    def authorize(action: int, first: str | None, second: str | None, *_: Any) -> int:
        if action in _READS and (second or "").lower() not in _FORBIDDEN_FUNCTIONS:
            return sqlite3.SQLITE_OK
        refused.append(f"{first or second or 'this statement'}")
        return sqlite3.SQLITE_DENY

    sql_functions.add_to(reader)
    reader.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _CELL_BYTES)
    deadline = time.monotonic() + seconds
    reader.set_authorizer(authorize)
    reader.set_progress_handler(lambda: int(time.monotonic() > deadline), _STEPS)
    try:
        cursor = reader.execute(sql)
        rows = cursor.fetchall() if max_rows is None else cursor.fetchmany(max_rows)
    except (sqlite3.Error, sqlite3.Warning, ValueError, UnicodeEncodeError) as error:
        raise StoreError(_reason(error, refused, seconds)) from error
    if cursor.description is None:
        raise StoreError("mlux sql only reads; begin with SELECT.")
    return [column[0] for column in cursor.description], rows


def _reason(error: Exception, refused: list[str], seconds: float) -> str:
    if refused:
        return _DOES_MORE
    too_long = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT
    if too_long:
        return f"The SQL took longer than {seconds:g} seconds and was stopped."
    return f"SQL: {' '.join(str(error).split()).rstrip('.')}."


def _query_postgres(store: Store, sql: str, max_rows: int | None, seconds: float) -> Table:
    # Not needed on SQLite, as is all that it imports.
    from mlux.store import sql_postgres

    with store.reading() as connection:
        try:
            return sql_postgres.run(connection, sql, max_rows, seconds)
        except (connection.dialect.loaded_dbapi.Error, UnicodeEncodeError) as error:
            raise StoreError(_server_reason(error, sql, seconds)) from error


def _server_reason(error: Exception, sql: str, seconds: float) -> str:
    kind = type(error).__name__
    if kind == "QueryCanceled":
        return f"The SQL took longer than {seconds:g} seconds and was stopped."
    if kind in ("FeatureNotSupported", "InvalidCursorDefinition", "ReadOnlySqlTransaction"):
        return _DOES_MORE
    first = next(iter(sql.split()))
    queries = ("select", "with", "values", "table", "(")
    if kind == "SyntaxError" and not first.lower().startswith(queries):
        return f"mlux sql only reads; begin with SELECT, not with {first[:20]}."
    message, _, _ = str(error).partition("\n")
    return f"SQL: {' '.join(message.split()).rstrip('.')}."
