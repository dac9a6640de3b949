"""How a comparison is ordered, marked and shown."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlux.cli.cells import Whole
from mlux.errors import UnknownNameError

if TYPE_CHECKING:
    from pandas import DataFrame

# Of a difference, for eyes: what --stats is there for, and what is shown without it.
TESTS = ("n", "lost", "estimate", "interval", "effect", "size", "p", "q")
MEANS = ("n", "lost", "mean_a", "mean_b", "estimate", "interval", "q")


def ordered(
    frame: "DataFrame", sort: str | None, top: int | None, *, by: str | list[str]
) -> "DataFrame":
    """The rows in the order asked for, or the first ones by p or by how far apart runs are."""
    if sort is not None:
        name = sort.removeprefix("-")
        if name not in frame:
            columns = [str(column) for column in frame.columns]
            hint = f"Known: {', '.join(columns)}."
            raise UnknownNameError("column", name, columns, hint)
        frame = frame.sort_values(name, ascending=name == sort, kind="stable")
    elif top is not None and isinstance(by, str):
        frame = frame.assign(far=frame["estimate"].abs())
        frame = frame.sort_values([by, "far"], ascending=[True, False], kind="stable")
        frame = frame.drop(columns="far")
    elif top is not None:
        apart = frame[by].max(axis=1) - frame[by].min(axis=1)
        frame = frame.loc[apart.sort_values(ascending=False, kind="stable").index]
    return frame.head(top).reset_index(drop=True) if top else frame.reset_index(drop=True)


def best_places(values: "DataFrame", better: str) -> list[tuple[int, str]]:
    """Row and column of the best of a single column, or of each row.

    Args:
        values: Numbers to choose among.
        better: `higher`, `lower`, or `neither`, of which none is best.
    """
    if better == "neither":
        return []
    scores = values if better == "higher" else -values
    lines = scores.to_numpy(dtype=float)  # [rows, runs]
    places = [(row, str(name)) for row in range(len(scores)) for name in scores.columns]
    if len(scores.columns) == 1:
        lines = lines.T
    # Where some are equal, each of them is best; where all are, none is.
    highest = [max(filter(_known, line), default=None) for line in lines.tolist()]
    lowest = [min(filter(_known, line), default=None) for line in lines.tolist()]
    best = [
        value == high != low
        for line, high, low in zip(lines.tolist(), highest, lowest, strict=True)
        for value in line
    ]
    return [place for place, is_best in zip(places, best, strict=True) if is_best]


def _known(value: float) -> bool:
    return value == value  # not NaN


def for_eyes(frame: "DataFrame", by: Sequence[str], measures: Sequence[str]) -> "DataFrame":
    """What a person looks at: one interval instead of two ends, nothing that says nothing."""
    import pandas as pd

    ends = zip(frame["low"], frame["high"], strict=True)
    texts = [Whole(f"[{low:.3g}, {high:.3g}]") if _known(low) else None for low, high in ends]
    # As objects, because as texts they would be plain ones.
    interval = pd.Series(texts, frame.index, dtype=object)
    shown = frame.assign(interval=interval).rename(columns={"n_lost": "lost"})
    for name in ("size", "effect", "p", "q", "q_equivalent"):
        if name in shown:
            shown[name] = [float(f"{value:.2g}") for value in shown[name]]
    if "lost" in shown and not shown["lost"].any():
        measures = [name for name in measures if name != "lost"]
    if "q_equivalent" in shown:  # two corrected p leave no room for the others
        measures = [name for name in measures if name != "p"]
    runs = ["run"] if frame["run"].nunique() > 1 else []
    extra = ["n_b", "q_equivalent"]
    order = [*runs, *by, *measures[:1], *extra[:1], *measures[1:], *extra[1:]]
    return shown[[name for name in order if name in shown and shown[name].notna().any()]]
