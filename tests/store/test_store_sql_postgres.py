"""A person's own SQL on PostgreSQL: asked as the server's superuser, who could do anything."""

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from synthetic import write_run

from mlux.errors import StoreError
from mlux.store import Store, query
from mlux.store.sql_allowed import FUNCTIONS
from mlux.store.tables import Base


@pytest.fixture
def backend() -> str:
    return "postgresql"


def everything(store: Store) -> dict[str, list[str]]:
    """Every row of every table, and the names of what there is."""
    with store.reading() as connection:
        tables = {
            name: sorted(connection.exec_driver_sql(f"SELECT t::text FROM {name} AS t").scalars())
            for name in Base.metadata.tables
        }
        names = connection.exec_driver_sql("SELECT relname FROM pg_class").scalars()
        return tables | {"names": sorted(names)}


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM runs",
        "INSERT INTO experiments VALUES (9, 'x', '', '')",
        "UPDATE runs SET note = 'x'",
        "MERGE INTO runs USING trials ON true WHEN MATCHED THEN DELETE",
        "TRUNCATE runs CASCADE",
        "WITH x AS (DELETE FROM runs RETURNING uid) SELECT * FROM x",
        "SELECT uid FROM runs FOR UPDATE",
        "DROP TABLE runs",
        "CREATE TABLE x (y integer)",
        "CREATE TEMP TABLE x (y integer)",
        "ALTER SYSTEM SET work_mem = '1MB'",
        "CREATE EXTENSION dblink",
        "LOAD 'libevil'",
        "COPY runs TO '{folder}/out'",
        "COPY runs TO PROGRAM 'touch {folder}/out'",
        "COPY (SELECT 1) TO STDOUT",
        "COMMIT",
        "BEGIN READ WRITE",
        "SET TRANSACTION READ WRITE",
        "SET statement_timeout = 0",
        "DO 'BEGIN DELETE FROM runs; END'",
        "EXPLAIN ANALYZE DELETE FROM runs",
        "VACUUM",
        "LOCK TABLE runs",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SELECT set_config('statement_timeout', '0', false)",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT \"pg_read_file\"('/etc/passwd')",
        "SELECT ('/etc/passwd').pg_read_file",
        "SELECT 1 /* ' */, pg_read_file('/etc/passwd') /* ' */",
        "SELECT E'\\'', pg_read_file('/etc/passwd'), '\\''",
        "SELECT $a$ ' $a$, pg_read_file('/etc/passwd'), $a$ ' $a$",
        "SELECT U&\"\\0070g_read_file\"('/etc/passwd')",
        "SELECT * FROM pg_ls_dir('/')",
        "SELECT 1 LIMIT length(pg_read_file('/etc/passwd'))",
        "SELECT lo_export(1, '{folder}/out')",
        "SELECT lo_import('/etc/passwd')",
        "SELECT rolpassword FROM pg_authid",
        "SELECT table_to_xml('pg_authid', true, true, '')",
        "SELECT query_to_xml('DELETE FROM runs', true, true, '')",
        "SELECT pg_terminate_backend(1)",
        "SELECT pg_reload_conf()",
        "SELECT pg_advisory_lock(1)",
        "SELECT nextval('runs_id_seq')",
        "SELECT setval('runs_id_seq', 1)",
        "SELECT current_setting('data_directory')",
        "SELECT * FROM crosstab('SELECT 1, 2, pg_read_file(''/etc/passwd'')') AS c (a int, b text)",
        "SELECT * FROM mine('SELECT 1')",
        "SELECT ts_stat('SELECT to_tsvector(rolname) FROM pg_authid')",
        "SELECT cursor_to_xml('question', 1, true, true, '')",
        "SELECT database_to_xml(true, true, '')",
        "SELECT has_table_privilege('runs', 'DELETE')",
        "SELECT inet_server_addr()",
        "SELECT txid_current()",
        "SELECT 'pg_read_file (1)'",
        "SELECT '/**/pg_sleep/**/ (9)'",
        "SELECT 1 /* /* */ ' */, pg_read_file('/etc/passwd') --'",
        "SELECT 1 -- '\n, pg_read_file('/etc/passwd') --'",
        'SELECT "quote""d", "pg_read_file"/**/ (\'/etc/passwd\')',
        "SELECT e'a\\' || pg_read_file('/etc/passwd') || '\\'",
    ],
)
def test_what_does_more_than_read_is_refused(store: Store, tmp_path: Path, statement: str) -> None:
    write_run(store)
    with store.engine.begin() as connection:
        connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS tablefunc")
        connection.exec_driver_sql(
            "CREATE OR REPLACE FUNCTION mine(text) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'"
        )
    tmp_path.chmod(0o777)
    before = everything(store)
    with pytest.raises(StoreError, match=r"mlux sql (only reads|does not take)"):
        query(store, statement.format(folder=tmp_path))
    assert everything(store) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("then", ["DELETE FROM runs", "COMMIT", "SELECT 2"])
def test_it_is_one_statement(store: Store, then: str) -> None:
    write_run(store)
    with pytest.raises(StoreError, match="multiple commands"):
        query(store, f"SELECT 1; {then}")
    with pytest.raises(StoreError, match="multiple commands"):
        query(store, f"SELECT 1; COMMIT; {then}")
    assert query(store, "SELECT count(*) FROM runs")[1] == [(1,)]


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("", "The SQL is empty"),
        ("SELEC 1", "only reads; begin with SELECT, not with SELEC."),
        ("-- nothing", "only reads; begin with SELECT, not with --."),
        ("(((", "SQL: syntax error"),
        ("SELECT nme FROM experiments", 'SQL: column "nme" does not exist.'),
        ("SELECT $1", "SQL: .*requires 1."),
        ("SELECT 1 %s", 'SQL: column "s" does not exist.'),
        ("SELECT '\0'", "SQL: .*null character"),
        ("SELECT '\ud800'", "SQL: .*surrogates"),
        ("SELECT 1 / 0", "SQL: division by zero."),
    ],
)
def test_what_is_wrong_is_said_in_one_line(store: Store, statement: str, complaint: str) -> None:
    with pytest.raises(StoreError, match=complaint) as error:
        query(store, statement)
    assert "\n" not in str(error.value)


def test_words_of_a_text_are_not_taken_for_functions(store: Store) -> None:
    assert query(store, "SELECT 'pg_read_file is a function' AS a") == (
        ["a"],
        [("pg_read_file is a function",)],
    )
    assert query(store, "SELECT count(*) FROM (SELECT random()) AS x")[1] == [(1,)]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY value) FROM results",
        "WITH best (metric, value) AS (SELECT metric, max(value) FROM results GROUP BY 1) "
        "SELECT b.metric, CAST(round(b.value::numeric, 2) AS numeric(10, 2)) "
        "FROM best AS b (metric, value)",
        'SELECT "run", row_number() OVER (PARTITION BY run ORDER BY layer) FROM results',
        "SELECT coalesce(nullif(layer, 0), -1) FROM results WHERE metric IN ('a', 'b (c)')",
        "SELECT 'it''s -- no comment', 'nor /* this' /* but /* this */ is */ -- and this",
        "SELECT metric || ' (' || count(*) || ')' FROM results GROUP BY metric",
        "SELECT x.* FROM jsonb_to_recordset('[{\"a\": 1}]') AS x (a int) WHERE EXISTS (SELECT 1)",
    ],
)
def test_what_a_person_asks_is_answered(store: Store, statement: str) -> None:
    write_run(store)
    assert query(store, statement)[1] is not None


def test_what_is_allowed_is_the_servers_own_and_does_nothing(store: Store) -> None:
    listed = sa.text("SELECT proname, provolatile FROM pg_proc WHERE proname = ANY(:names)")
    with store.reading() as connection:
        found = connection.execute(listed, {"names": sorted(FUNCTIONS)}).all()
    assert {name for name, kind in found if kind == "v"} <= {
        *("array_sample", "array_shuffle", "clock_timestamp", "gen_random_uuid"),
        *("random", "random_normal", "timeofday"),
    }
    takes_sql = ("_to_xml", "ts_stat", "ts_rewrite", "current_setting", "set_config", "pg_", "lo_")
    assert not [name for name in FUNCTIONS if any(part in name for part in takes_sql)]


@pytest.mark.parametrize(
    "forever",
    [
        "SELECT count(*) FROM generate_series(1, 1e12)",
        "SELECT generate_series(1, 1e12)",
        "SELECT count(*) FROM generate_series(1, 99999) AS a, generate_series(1, 99999) AS b",
    ],
)
def test_what_takes_too_long_is_stopped_by_the_server(store: Store, forever: str) -> None:
    with pytest.raises(StoreError, match=r"took longer than 0\.3 seconds and was stopped"):
        query(store, forever, seconds=0.3)


def test_no_function_of_the_server_has_the_name_of_something_of_ours(store: Store) -> None:
    ours = {column.name for table in Base.metadata.tables.values() for column in table.columns}
    ours |= set(Base.metadata.tables) | {"results", "predictions", "run_overview"}
    with store.reading() as connection:
        volatile = sa.text("SELECT proname FROM pg_proc WHERE provolatile = 'v'")
        assert not ours & set(connection.execute(volatile).scalars())


def test_the_documented_role_asks_and_can_do_no_more(store: Store) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "exchange.md").read_text("utf-8")
    (granted,) = re.findall(r"```sql\n(CREATE ROLE.*?)```", page, re.DOTALL)
    uid = write_run(store)
    with store.engine.begin() as connection:
        connection.exec_driver_sql(granted)
    mine = sa.make_url(store.location).set(username="asks")
    with Store.open(mine.render_as_string(hide_password=False)) as asking:
        assert query(asking, "SELECT run FROM run_overview")[1] == [(uid,)]
    with (
        sa.create_engine(mine, poolclass=sa.NullPool).connect() as connection,
        pytest.raises(sa.exc.ProgrammingError, match="permission denied"),
    ):
        connection.exec_driver_sql("DELETE FROM runs")
