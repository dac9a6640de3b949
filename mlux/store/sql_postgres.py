"""A person's own SQL on a PostgreSQL server: five walls behind each other.

The transaction is read-only; the statement is the query of a cursor, so that it is one SELECT and
neither COPY nor COMMIT; it calls only functions that `sql_allowed` lists, which answer from their
arguments and run no SQL that they are handed as text; no name of the server's own files, settings
or processes stands in it; and `statement_timeout` ends what takes too long.

They keep out mistakes and what is known. Who lets strangers ask gives them a role that may do no
more than SELECT (docs/exchange.md).
"""

import re
from typing import Any, NamedTuple

import sqlalchemy as sa

from mlux.errors import StoreError
from mlux.store.sql_allowed import FUNCTIONS

# The server's own tables and functions (files, settings, passwords, processes), and those that
# read a table named by a text.
_OF_THE_SERVER = re.compile(r"pg_|lo_|dblink|\w+_to_xml")
# With `standard_conforming_strings` on, these and what stands between them make up a statement.
_TOKEN = re.compile(
    r"""'(?P<text>(?:[^']|'')*)'|"(?P<quoted>(?:[^"]|"")*)"|(?P<word>[^\W\d][\w$]*)"""
    r"""|(?P<comment>--[^\r\n]*|/\*)|\s+|(?P<sign>.)""",
    re.DOTALL,
)
# What could hold text that the pattern above takes for something else, or the other way round.
_UNTOLD = re.compile(r"""(?i:\b(?:e'|u&['"]))|\$(?:[^\W\d]\w*)?\$""")
# In a text, what would be a call if something ran it.
_CALL = re.compile(r"([^\W\d][\w$]*)[\s\"]*(?:/\*.*?\*/\s*)*\(", re.DOTALL)


class _Names(NamedTuple):
    """The names that stand in a statement.

    Attributes:
        written: All outside its texts.
        called: Of these, those before a parenthesis: functions, types, columns of a table's alias.
        in_texts: Those before a parenthesis inside a text.
    """

    written: set[str]
    called: set[str]
    in_texts: set[str]


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
    connection.execute(sa.text("SET LOCAL standard_conforming_strings = on"))
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
    """Raises StoreError if a statement calls what is not listed, or names what is the server's."""
    names = _names(sql)
    found = connection.execute(
        sa.text(
            "SELECT proname, bool_or(provolatile = 'v'), bool_and(pronamespace = 11) "
            "FROM pg_proc WHERE proname = ANY(:names) GROUP BY proname"
        ),  # 11 is pg_catalog, whose functions no person has written
        {"names": sorted(names.written | names.in_texts)},
    ).all()
    foreign = {name for name, _, is_built_in in found if not (is_built_in and name in FUNCTIONS)}
    acting = {name for name, is_volatile, _ in found if is_volatile} - FUNCTIONS
    anywhere = names.written | names.in_texts
    refused = (names.called & foreign) | (anywhere & acting)
    refused |= {name for name in anywhere if _OF_THE_SERVER.match(name)}
    if refused:
        raise StoreError(
            f"mlux sql only reads the notebook, not what {sorted(refused)[0]} reaches."
        )


def _names(sql: str) -> _Names:
    """Reads a statement as the server does.

    Example:
        >>> _names("SELECT avg(value) FROM results -- count(*)").called
        {'avg'}
    """
    names = _Names(set(), set(), set())
    before: str | None = None
    at = 0
    while at < len(sql):
        token = _TOKEN.match(sql, at)
        assert token is not None  # every character is one of its kinds
        at = token.end()
        kind = token.lastgroup
        if kind is None:  # space
            continue
        if kind == "comment":
            at = _end_of_comment(sql, token) if token[0] == "/*" else at
            continue
        untold = _UNTOLD.match(sql, token.start())
        if untold:
            raise StoreError(
                f"mlux sql does not take texts and names that begin with {untold[0]}; write them "
                "between plain quotes."
            )
        if kind == "sign" and token[0] == "(" and before:
            names.called.add(before)
        before = token[0].lower() if kind == "word" else token["quoted"]
        if before:
            names.written.add(before)
        if kind == "text":
            names.in_texts.update(name.lower() for name in _CALL.findall(token[0]))
    return names


def _end_of_comment(sql: str, begun: re.Match[str]) -> int:
    """Where a comment is over; one may stand inside another."""
    depth = 1
    for mark in re.finditer(r"/\*|\*/", sql[begun.end() :]):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return begun.end() + mark.end()
    return len(sql)
