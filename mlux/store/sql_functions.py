"""What a person's SQL misses in SQLite: the median and the spread of a group.

`stddev` is that of a sample, as PostgreSQL's. PostgreSQL has no `median`; what it has,
`percentile_cont(0.5) WITHIN GROUP (ORDER BY value)`, gives the same number.
"""

import sqlite3
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from math import fsum, sqrt
from statistics import median

Summary = Callable[[Sequence[float]], float | None]


class _Aggregate:
    """Collects the numbers of a group, 8 bytes each; NULL does not count, as elsewhere in SQL."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary
        self._values = array("d")

    def step(self, value: float | None, /) -> None:
        if value is not None:
            self._values.append(value)

    def finalize(self) -> float | None:
        return self._summary(self._values) if self._values else None


def _deviation(values: Sequence[float], *, of_sample: bool) -> float | None:
    n = len(values)
    if n == 1 and of_sample:
        return None
    mean = fsum(values) / n
    return sqrt(fsum((value - mean) ** 2 for value in values) / (n - of_sample))


AGGREGATES: dict[str, Summary] = {
    "median": median,
    "stddev": partial(_deviation, of_sample=True),
    "stddev_samp": partial(_deviation, of_sample=True),
    "stddev_pop": partial(_deviation, of_sample=False),
}
"""Name in SQL → what it makes of the numbers of a group; there is at least one."""


def add_to(connection: sqlite3.Connection) -> None:
    """Makes them known to a connection."""
    for name, summary in AGGREGATES.items():
        kind = partial(_Aggregate, summary)
        connection.create_aggregate(name, 1, kind)  # type: ignore[arg-type] # stubs: integers alone
