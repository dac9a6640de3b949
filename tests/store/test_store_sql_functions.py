"""`median` and `stddev` on SQLite give what PostgreSQL gives; the SQL of the pages runs on both."""

import json
import re
import statistics
from pathlib import Path

import pytest
from synthetic import make_spec, write_run

from mlux.errors import StoreError
from mlux.store import Store, query

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))


def test_spread_is_that_of_the_values(store: Store) -> None:
    write_run(store)
    values = [
        v for (v,) in query(store, "SELECT value FROM results WHERE metric = 'logit_diff'")[1]
    ]
    ((found, of_all),) = query(
        store,
        "SELECT stddev(value), stddev_pop(value) FROM results WHERE metric = 'logit_diff'",
    )[1]
    assert found == pytest.approx(statistics.stdev(values))
    assert of_all == pytest.approx(statistics.pstdev(values))
    one = "FROM results WHERE metric = 'accuracy' AND trial = 0"
    assert query(store, f"SELECT stddev(value), stddev_pop(value) {one}")[1] == [(None, 0.0)]


def test_the_median_is_the_middle(sqlite_store: Store) -> None:
    def median(*values: str) -> object:
        rows = ", ".join(f"({value})" for value in values)
        return query(sqlite_store, f"WITH x(v) AS (VALUES {rows}) SELECT median(v) FROM x")[1][0][0]

    assert median("3", "1", "2") == 2
    assert median("4", "1", "2", "3.0") == 2.5
    assert median("NULL", "7") == 7
    assert median("NULL") is None
    assert median("9e999", "1", "2") == 2
    with pytest.raises(StoreError, match="SQL: "):
        median("'many'")
    windowed = "SELECT layer, median(value) FROM results GROUP BY layer HAVING stddev(value) > 0"
    write_run(sqlite_store)
    assert len(query(sqlite_store, windowed)[1]) == 4


def documented() -> dict[str, str]:
    """Where it stands → each SELECT of a page or a notebook that is for `mlux sql`."""
    found: dict[str, str] = {}
    for page in PAGES:
        text = page.read_text("utf-8")
        parts = re.findall(r"```sql\n(.*?)```", text, re.S)
        parts += re.findall(r'mlux sql (?:--\S+ )*"([^"]+)"', text)
        for number, part in enumerate(parts):
            if "…" not in part and ".parquet'" not in part:  # a hint; DuckDB's
                found[f"{page.relative_to(ROOT)} {number}"] = part
    for page in NOTEBOOKS:
        cells = json.loads(page.read_text("utf-8"))["cells"]
        source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        asked = re.findall(r'ask\(\s*"""(.*?)"""|ask\(\s*"([^"]+)"', source, re.S)
        for number, (long, short) in enumerate(asked):
            found[f"{page.relative_to(ROOT)} {number}"] = long or short
    return found


@pytest.fixture(scope="module")
def statements() -> dict[str, str]:
    found = documented()
    assert len(found) > 40
    return found


def test_the_documented_sql_runs(store: Store, statements: dict[str, str]) -> None:
    conditions = [{"site": "head"}, {"site": "head", "control": "random"}]
    uid = write_run(store, make_spec(conditions=conditions))
    refused = {}
    for place, statement in statements.items():
        try:
            for one in re.sub(r"\{\w\}", uid, statement).strip().rstrip(";").split(";"):
                query(store, one)
        except StoreError as error:
            refused[place] = str(error)
    assert refused == {}
