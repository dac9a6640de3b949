"""A database's schema against that of this mlux."""

import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from mlux.store.tables import Base
from mlux.store.views import VIEWS


def differences(connection: sa.Connection) -> Iterator[str]:
    """How the schema differs from the tables and views of this mlux, one line each."""
    if connection.dialect.name == "sqlite":
        found, wanted = statements(connection), _wanted_statements()
    else:
        found, wanted = _reflected(connection), _declared()
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found:
            yield f"The schema lacks {name}."
        elif name not in wanted:
            yield f"The schema has {name}, which mlux does not know."
        elif found[name] != wanted[name]:
            yield f"The schema's {name} is not as mlux made it."


def statements(connection: sa.Connection) -> dict[str, str]:
    """Name → the SQL that made it in SQLite, white space aside and constraints in order."""
    rows = connection.exec_driver_sql(
        "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL "
        "AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> 'alembic_version'"
    )
    return {name: _normal(sql) for name, sql in rows}


def _normal(sql: str) -> str:
    # A table that was renamed has its name in quotes.
    sql = " ".join(sql.replace('"', "").split())
    table = re.fullmatch(r"(CREATE TABLE \w+) \( (.*) \)(.*)", sql)
    if table is None:
        return sql
    parts = re.split(r", (?=CONSTRAINT|\w+ (?:INTEGER|TEXT|REAL))", table[2].rstrip())
    columns = [part for part in parts if not part.startswith("CONSTRAINT")]
    constraints = sorted(part for part in parts if part.startswith("CONSTRAINT"))
    return " | ".join([table[1], *columns, *constraints, table[3].strip()])


def _wanted_statements() -> dict[str, str]:
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        for name, select in VIEWS.items():
            connection.exec_driver_sql(f"CREATE VIEW {name} AS {select}")
        return statements(connection)


def _reflected(connection: sa.Connection) -> dict[str, Any]:
    """Name → columns, and which constraints and indices there are, on any server."""
    inspector = sa.inspect(connection)
    found: dict[str, Any] = dict.fromkeys(inspector.get_view_names(), "view")
    for name in inspector.get_table_names():
        if name == "alembic_version":
            continue
        columns = {column["name"]: column["nullable"] for column in inspector.get_columns(name)}
        unique = {one["name"] for one in inspector.get_unique_constraints(name)}
        found[name] = (
            columns,
            {inspector.get_pk_constraint(name)["name"]}
            | {key["name"] for key in inspector.get_foreign_keys(name)}
            | {check["name"] for check in inspector.get_check_constraints(name)}
            | unique
            | {index["name"] for index in inspector.get_indexes(name)},
        )
    return found


def _declared() -> dict[str, Any]:
    """The same of the tables and views of this mlux."""
    wanted: dict[str, Any] = dict.fromkeys(VIEWS, "view")
    for table in Base.metadata.sorted_tables:
        columns = {column.name: bool(column.nullable) for column in table.columns}
        names = {str(one.name) for one in table.constraints} | {str(i.name) for i in table.indexes}
        wanted[table.name] = (columns, names)
    return wanted
