"""Reading rows of numbers through Arrow (ADBC), where its packages are installed.

ADBC brings an SQLite library of its own. Two libraries in one process do not know each other's
handles, and closing any handle of a file drops all POSIX locks that the process has on it: another
process may then delete the write-ahead log under a reader or writer of this one. So a file is read
through ADBC only while this process has no other handle of it open, and none is opened meanwhile.
"""

from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from mlux.store import sqlite_file
from mlux.store.session import Store

Columns = dict[str, npt.NDArray[np.generic]]

# By default the driver makes a batch of every 1,024 rows.
_BATCH = {"adbc.sqlite.query.batch_rows": 65_536}


def installed() -> bool:
    """Whether the packages of the extra `arrow` are there; they are not imported for that."""
    return all(find_spec(name) is not None for name in ("adbc_driver_sqlite", "pyarrow"))


def columns(store: Store, query: str) -> Columns | None:
    """The columns of a query, or None if it cannot be read safely in this way.

    Args:
        store: The notebook; its idle connections are closed.
        query: A SELECT of numbers, without NULL.
    """
    if store.path is None or store.writable or not installed():
        return None
    pool = store.engine.pool
    if isinstance(pool, sa.QueuePool) and pool.checkedout():
        return None
    store.engine.dispose()
    with sqlite_file.alone(store.path) as alone:
        return file_columns(store.path, query) if alone else None


def file_columns(path: Path, query: str) -> Columns:
    """The columns of a query on a file of which this process has no handle."""
    from adbc_driver_sqlite import dbapi

    uri = f"file:{quote(str(path.absolute()))}?{sqlite_file.read_options(path)}"
    with dbapi.connect(uri) as connection, connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**_BATCH)
        cursor.execute(query)
        table = cursor.fetch_arrow_table()
    return {name: table[name].to_numpy() for name in table.column_names}
