"""`docs/compare.md`: every function and the SQL beside it give the same."""

import inspect
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import Recorded
from synthetic import make_spec, write_run

from mlux import compare
from mlux.store import query

PAGE = (Path(__file__).parent.parent.parent / "docs" / "compare.md").read_text("utf-8")
PAIRS: list[tuple[str, str]] = re.findall(
    r"^```python\n(.*?)^```\n```sql\n(.*?)^```", PAGE, re.M | re.S
)


def sorted_cells(table: pd.DataFrame) -> list[tuple[object, ...]]:
    """The rows as plain values, in an order of their own; numbers rounded to nine digits."""

    def plain(value: object) -> object:
        if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
            return None
        if isinstance(value, bool | str):
            return value
        return float(f"{float(value):.9g}")  # type: ignore[arg-type] # only numbers are left

    rows = [tuple(map(plain, row)) for row in table.astype(object).itertuples(index=False)]
    return sorted(rows, key=repr)


@pytest.mark.parametrize(
    ("python", "sql"), PAIRS, ids=[re.findall(r"compare\.(\w+)", p)[0] for p, _ in PAIRS]
)
def test_a_function_and_its_sql_agree(recorded_anywhere: Recorded, python: str, sql: str) -> None:
    store = recorded_anywhere.store
    first, second = recorded_anywhere.runs
    third = write_run(store, make_spec(n_prompts=2))
    for name, uid in (("{a}", first), ("{b}", second), ("{c}", third)):
        python, sql = python.replace(name, uid), sql.replace(name, uid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLUX_DB", recorded_anywhere.location)
        found: pd.DataFrame = eval(python, {"compare": compare})  # our own documentation
    columns, rows = query(store, sql)
    wanted = pd.DataFrame(rows, columns=columns)
    assert len(found) > 0
    assert len(found.columns) == len(columns)
    assert sorted_cells(found) == sorted_cells(wanted)


def test_every_function_has_its_sql() -> None:
    shown = {name for python, _ in PAIRS for name in re.findall(r"compare\.(\w+)", python)}
    functions = {name for name in compare.__all__ if inspect.isfunction(getattr(compare, name))}
    # Nothing but statistics: its numbers are those of `pairs`.
    assert functions - shown == {"mixed"}
    for name in compare.__all__:
        assert f"`{name}" in PAGE or f".{name}" in PAGE or name == "GROUPS"
