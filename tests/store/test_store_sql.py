"""A person's own SQL reads everything and changes nothing."""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import make_model, make_spec, write_run

from mlux.errors import ParameterError, StoreError
from mlux.store import Store, query

FIRST_RIGHT_LAYER = """
SELECT model, min(layer) AS first_layer
FROM (SELECT model, layer, avg(CASE WHEN value = 0 THEN 1 ELSE 0 END) AS share
      FROM results
      WHERE experiment = 'toy_lens' AND metric = 'answer_rank'
      GROUP BY model, layer) AS shares
WHERE share >= 0.5
GROUP BY model
"""


def test_which_layer_first_ranks_the_right_answer_first(store: Store) -> None:
    write_run(store)
    write_run(store, make_spec(model=make_model("other", weights_hash="00")))
    assert len(FIRST_RIGHT_LAYER.strip().splitlines()) <= 8
    columns, found = query(store, FIRST_RIGHT_LAYER)
    assert columns == ["model", "first_layer"]
    assert sorted(found) == [("other", 2), ("toy", 2)]
    by_prompt = """
    SELECT model, prompt, min(layer) FROM results
    WHERE metric = 'answer_rank' AND value = 0 GROUP BY model, prompt
    """
    assert [row[2] for row in query(store, by_prompt)[1]] == [2] * 8


def dump(db: Path) -> list[str]:
    with closing(sqlite3.connect(db)) as connection:
        return list(connection.iterdump())


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM runs",
        "INSERT INTO experiments VALUES (9, 'x', '', '')",
        "UPDATE runs SET note = 'x'",
        "WITH x AS (SELECT 1) DELETE FROM runs",
        "REPLACE INTO experiments VALUES (1, 'x', '', '')",
        "DROP TABLE runs",
        "CREATE TABLE x (y)",
        "CREATE TEMP TABLE x (y)",
        "CREATE VIEW x AS SELECT 1",
        "ATTACH 'other.db' AS other",
        "DETACH main",
        "VACUUM INTO 'other.db'",
        "VACUUM",
        "REINDEX",
        "ANALYZE",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA writable_schema = ON",
        "SELECT load_extension('libevil')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT * FROM pragma_table_list",
        "BEGIN IMMEDIATE",
        "SAVEPOINT x",
    ],
)
def test_what_would_write_is_refused(
    sqlite_store: Store, db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(sqlite_store)
    files = sorted(path.name for path in tmp_path.iterdir())
    before = dump(db)
    with pytest.raises(StoreError, match="mlux sql only reads"):
        query(sqlite_store, statement)
    assert dump(db) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == files


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("", "The SQL is empty"),
        (" ; ", "The SQL is empty"),
        ("-- nothing", "mlux sql only reads; begin with SELECT"),
        ("SELEC 1", 'SQL: near "SELEC": syntax error.'),
        ("SELECT nme FROM experiments", "SQL: no such column: nme."),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT ?", "SQL: .*binding"),
        ("SELECT '\0'", "SQL: .*null character"),
        ("SELECT '\ud800'", "SQL: .*surrogates"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    sqlite_store: Store, statement: str, complaint: str
) -> None:
    with pytest.raises(StoreError, match=complaint) as error:
        query(sqlite_store, statement)
    assert "\n" not in str(error.value)
    assert not str(error.value).endswith("..")


def test_what_takes_too_long_is_stopped(store: Store) -> None:
    count = "SELECT 1 UNION ALL SELECT i % 7 + 1 FROM n"
    forever = f"WITH RECURSIVE n(i) AS ({count}) SELECT count(*) FROM n"
    with pytest.raises(StoreError, match=r"took longer than 0\.2 seconds and was stopped"):
        query(store, forever, seconds=0.2)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_it_stops_after_some_time_that_there_is(store: Store, seconds: float) -> None:
    with pytest.raises(ParameterError, match=r"seconds is .*; expected a number from 0\.001"):
        query(store, "SELECT 1", seconds=seconds)


def test_a_huge_cell_is_refused(sqlite_store: Store) -> None:
    with pytest.raises(StoreError, match="too big"):
        query(sqlite_store, "SELECT hex(zeroblob(40000000))")
    with suppress(StoreError):  # some versions of SQLite make it NULL
        _, [[cell]] = query(sqlite_store, "SELECT printf('%.*c', 300000000, 'x')")
        assert cell is None


def test_rows_are_limited_on_request(store: Store) -> None:
    write_run(store)
    assert len(query(store, "SELECT * FROM results", max_rows=3)[1]) == 3
    assert query(store, "SELECT 1 AS one WHERE 1 = 0") == (["one"], [])


def test_it_reads_what_another_connection_has_just_committed(store: Store, location: str) -> None:
    with Store.open(location) as reading:
        assert query(reading, "SELECT count(*) FROM runs")[1] == [(0,)]
        write_run(store)
        assert query(reading, "SELECT count(*) FROM runs")[1] == [(1,)]


WORDS = (
    *("SELECT", "INSERT", "INTO", "DELETE", "FROM", "UPDATE", "SET", "runs", "name", "*", "(", ")"),
    *(",", ";", "=", "1", "'x'", 'x"y', "WHERE", "ATTACH", "'z.db'", "AS", "DROP", "TABLE", "/*"),
    *("PRAGMA", "query_only", "OFF", "WITH", "UNION", "VALUES", "BEGIN", "COMMIT", "--", "[", "`"),
    *("experiments", "INSERT INTO experiments VALUES (1, 'x', 'x', 'x')"),
)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join) | st.text(max_size=30))
def test_no_text_can_write_or_crash_it(store: Store, text: str) -> None:
    with suppress(StoreError):
        columns, _ = query(store, text, seconds=2)
        assert isinstance(columns, list)
    with store.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM experiments").scalar() == 0
