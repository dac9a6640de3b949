"""What a notebook holds, row by row: to show that nothing has changed it."""

from typing import Any

from mlux.store import Store
from mlux.store.tables import Base


def everything(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, and the names of all tables and views."""
    with store.reading() as connection:
        tables = {
            name: sorted(map(tuple, connection.exec_driver_sql(f"SELECT * FROM {name}")), key=repr)
            for name in Base.metadata.tables
        }
        sqlite = connection.dialect.name == "sqlite"
        names = connection.exec_driver_sql(
            "SELECT name FROM sqlite_master"
            if sqlite
            else "SELECT relname FROM pg_class WHERE relname NOT LIKE 'pg_toast%%'"
        )
        return tables | {"names": sorted(map(tuple, names))}
