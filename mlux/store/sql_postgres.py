"""A person's own SQL on a PostgreSQL server: four walls behind each other.

The transaction is read-only; the statement is the query of a cursor, so that it is one SELECT and
neither COPY nor COMMIT; no function is called that does something or reaches beyond the notebook;
and the server's own `statement_timeout` ends what takes too long.
"""

import re
from typing import Any

import sqlalchemy as sa

from mlux.errors import StoreError

# Functions that are volatile by their nature and do nothing but answer.
_HARMLESS = {"clock_timestamp", "gen_random_uuid", "random", "timeofday"}
# The server's own tables and functions (files, settings, passwords, processes), and those that
# read a table named by a text.
_OF_THE_SERVER = re.compile(r"pg_|lo_|dblink|\w+_to_xml")
_WORD = re.compile(r"[^\W\d][\w$]*")
# Escaped letters in an identifier would hide a name: U&"\0070g_read_file".
_HIDDEN = re.compile(r'[uU]&"')
# With none of these, what stands between two quotes is a string, whatever the server's settings.
_MAY_SHIFT_QUOTES = re.compile(r'["\\$]|--|/\*')


def run(
    connection: sa.Connection, sql: str, max_rows: int | None, seconds: float
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The columns and rows of one SELECT, in a transaction that can do nothing else.

    Args:
        connection: A connection that has not begun; its transaction is given up by the caller.
        sql: One statement.
        max_rows: Stop after this many rows.
        seconds: What the server allows it.

    Raises:
        StoreError: If it calls what is not of the notebook.
        sqlalchemy.exc.DBAPIError: If the server refuses it.
    """
    connection.execute(sa.text("SET TRANSACTION READ ONLY"))
    connection.execute(sa.text(f"SET LOCAL statement_timeout = {max(1, int(seconds * 1000))}"))
    _check_names(connection, sql)
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        # Prepared, because that is one statement: no COMMIT can follow the query.
        cursor.execute(f"DECLARE question NO SCROLL CURSOR FOR\n{sql}", prepare=True)
        many = "ALL" if max_rows is None else str(int(max_rows))
        cursor.execute(f"FETCH FORWARD {many} FROM question")
        return [column.name for column in cursor.description], cursor.fetchall()


def _check_names(connection: sa.Connection, sql: str) -> None:
    """Raises StoreError if a word of the statement is a function that does something.

    Every word counts, also one in a comment: what is a comment depends on the server's settings.
    """
    if _HIDDEN.search(sql):
        raise StoreError('mlux sql does not take names written as U&"…"; write them out.')
    plain = sql if _MAY_SHIFT_QUOTES.search(sql) else re.sub("'[^']*'", " ", sql)
    words = {word.lower() for word in _WORD.findall(plain)} - _HARMLESS
    found = connection.execute(
        sa.text("SELECT proname FROM pg_proc WHERE provolatile = 'v' AND proname = ANY(:words)"),
        {"words": sorted(words)},
    )
    refused = {word for word in words if _OF_THE_SERVER.match(word)} | set(found.scalars())
    if refused:
        raise StoreError(
            f"mlux sql only reads the notebook, not what {sorted(refused)[0]} reaches."
        )
