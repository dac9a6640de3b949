"""How one run differs from another, group by group, with everything that makes it believable."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlux.compare.pairing import Sides, Unit, load, paired, refuse_empty
from mlux.compare.selection import groups_of
from mlux.compare.summary import Resampling, equal_sizes, group_codes
from mlux.compare.unpaired import unpaired_table
from mlux.errors import ParameterError, UnknownNameError
from mlux.limits import check as check_range
from mlux.stats import (
    N_RESAMPLES,
    Floats,
    benjamini_hochberg,
    cohens_dz,
    max_t,
    paired_interval,
    sign_flip_p,
    tost_p,
)
from mlux.store.frames import Database, Runs

Correction = Literal["bh", "max-t"]
CORRECTIONS = {
    "bh": "Benjamini–Hochberg over {} tests",
    "max-t": "step-down max-T over {} tests",
}
_MEASURES = ("mean_a", "mean_b", "estimate", "low", "high", "effect", "p")
_FEW = 20
SMALLEST = 0.01
"""The smallest difference that counts if no margin is stated, as a share of the metric's size."""
_ROUNDING = {"float16": 2.0**-10, "bfloat16": 2.0**-7}  # relative, of a model's numbers
_ROUNDING_FLOAT32 = 2.0**-20  # float32 has 2**-23; sums over a model lose the last bits


def diff(
    a: Runs,
    b: Runs,
    *,
    metric: str,
    by: str | Sequence[str] = "layer",
    db: Database = None,
    seed: int = 0,
    paired: bool = True,
    unit: Unit = "prompt",
    correction: Correction = "bh",
    margin: float | None = None,
    across_quantization: bool = False,
    level: float = 0.95,
    n_resamples: int = N_RESAMPLES,
) -> pd.DataFrame:
    """How b differs from a, paired by prompt.

    The prompt is the unit: its values are averaged within a group first, over those conditions
    that both runs have, controls left out; then b minus a is taken for each prompt that both have.

    Args:
        a: A run, the baseline; or several that differ in their seed alone, which are averaged.
        b: A run, or several.
        metric: The metric.
        by: What to compare separately: any of `layer head position prompt condition model
            experiment`; an empty list compares everything at once.
        db: The notebook.
        seed: Of the resampling.
        paired: False for runs on different prompts: nothing is paired, and much more is needed to
            see a difference.
        unit: What is a sample of what could have been: `prompt`, or `seed`, where each run is one
            unit, paired with the run of the same seed.
        correction: How p becomes q: `bh` bounds the share of false discoveries (Benjamini and
            Hochberg), `max-t` the chance of a single one (Westfall and Young).
        margin: The smallest difference that would matter, in the metric's unit: adds a test of "no
            difference".
        across_quantization: Whether models of different precision may be compared.
        level: The confidence level of the interval.
        n_resamples: Of the bootstrap and the tests.

    Returns:
        One row a group: the group's names, `n` pairs, `n_lost` units that only one side has,
        `mean_a`, `mean_b`, `estimate` (mean of b minus a), its bootstrap interval `low` to `high`
        (BCa), `effect` (Cohen's d_z), `size` (the estimate as a share of the largest mean), `p` of
        a paired sign-flip test, and `q`, which is p corrected over the groups. With a margin also
        `p_equivalent` of two one-sided tests and its `q_equivalent`: small where the runs differ by
        less than the margin. If unpaired: `n` and `n_b` units, Cohen's d, and a permutation test.
        `attrs` has `method`, `correction`, `level`, `n_resamples`, `seed`, in `notes` what to keep
        in mind, and in `smallest` the smallest difference that counts, in the metric's unit: the
        margin, or else 1 % of the largest mean, and never less than the models' dtype rounds away.

    Raises:
        UnknownNameError: If there is no such run, metric or group.
        RunError: If no prompt is in both; if models of different precision, a metric of different
            meaning, or runs that are no replicates are put together.
        ParameterError: If options make no test.

    Example:
        >>> table = diff("latest:logit_lens~1", "latest:logit_lens", metric="answer_rank",
        ...              across_quantization=True, db="mlux.db.example")
        >>> bool((table["low"] <= table["high"]).all())
        True
    """
    _check(paired, unit, correction, margin)
    how = Resampling(level=level, n_resamples=n_resamples, seed=seed)
    groups = groups_of(by)
    sides = load(
        *(a, b),
        metric=metric,
        by=groups,
        across=across_quantization,
        db=db,
        replicates=unit == "seed",
    )
    if paired:
        table, method = _paired_table(sides, metric, unit, correction, margin, how)
    else:
        table, method = unpaired_table(sides, metric, how)
        table["q"] = benjamini_hochberg(table["p"].to_numpy())
    smallest = _measure(table, sides, margin)
    for name in (name for name in groups if name not in sides.groups):
        table[name] = pd.Categorical([sides.label(name)] * len(table))
    measures = [name for name in table.columns if name not in groups]
    table = table[[*groups, *measures]]
    table.attrs = {
        "a": sides.called(0),
        "b": sides.called(1),
        "metric": metric,
        "unit": unit,
        "method": method,
        "correction": CORRECTIONS[correction].format(int(table["p"].notna().sum())),
        "smallest": smallest,
        "level": level,
        "n_resamples": n_resamples,
        "seed": seed,
        "notes": [*sides.notes, *_few(table)],
    }
    return table


def _check(paired: bool, unit: str, correction: str, margin: float | None) -> None:
    if correction not in CORRECTIONS:
        raise UnknownNameError("correction", correction, CORRECTIONS)
    if unit not in ("prompt", "seed"):
        raise UnknownNameError("unit", unit, ("prompt", "seed"))
    check_range("margin", margin)
    if not paired and (correction == "max-t" or margin is not None or unit == "seed"):
        raise ParameterError(
            "Unpaired runs have no differences to flip or to hold against a margin: leave "
            "correction='bh', margin=None and unit='prompt', or pair them."
        )


def _measure(table: pd.DataFrame, sides: Sides, margin: float | None) -> float:
    """Adds `size` to the table; the smallest difference that counts, in the metric's unit."""
    largest = float(np.nanmax(np.abs(table[["mean_a", "mean_b"]].to_numpy(np.float64)), initial=0))
    size = table["estimate"] / (largest or 1.0)
    table.insert(list(table.columns).index("p"), "size", size)
    dtypes = [run.dtype for side in sides.runs for run in side]
    rounding = largest * max(_ROUNDING.get(dtype, _ROUNDING_FLOAT32) for dtype in dtypes)
    return max(rounding, SMALLEST * largest if margin is None else margin)


def counts(table: pd.DataFrame, level: float) -> pd.Series:
    """Whether each difference of `diff` is unlikely to be luck and large enough to count.

    Args:
        table: What `diff` returned, or rows of it; its `attrs` have the smallest difference.
        level: The false discovery rate.
    """
    large: pd.Series = table["estimate"].abs() >= table.attrs["smallest"]
    return large & (table["q"] < level)


def _few(table: pd.DataFrame) -> list[str]:
    n = int(table["n"].max()) if len(table) else 0
    if not 0 < n < _FEW:
        return []
    if n == 1:
        return ["With one unit a group there is nothing to test."]
    least = f", and no p below {2 / 2**n:.2g}" if n < 6 and "n_b" not in table else ""
    return [f"{n} units are few: a BCa interval then covers less than it says{least}."]


def _paired_table(
    sides: Sides,
    metric: str,
    unit: Unit,
    correction: str,
    margin: float | None,
    how: Resampling,
) -> tuple[pd.DataFrame, str]:
    """Statistics of each group's pairs, and what they are."""
    units = paired(sides, unit).reset_index(drop=True)
    valid = units["a"].notna().to_numpy()
    refuse_empty(sides, units[valid], metric)
    codes, table = group_codes(units, sides.groups)
    table["n"] = np.bincount(codes[valid], minlength=len(table))
    table["n_lost"] = np.bincount(codes[~valid], minlength=len(table))
    order = np.flatnonzero(valid)[np.argsort(codes[valid], kind="stable")]
    first, second = (units[name].to_numpy(dtype=np.float64)[order] for name in "ab")
    found = {name: np.full(len(table), np.nan) for name in (*_MEASURES, "p_equivalent")}
    for places, rows in equal_sizes(table["n"].to_numpy()):
        data: Floats = second[rows] - first[rows]  # [groups, n]
        found["mean_a"][places] = first[rows].mean(axis=1)
        found["mean_b"][places] = second[rows].mean(axis=1)
        found["estimate"][places] = data.mean(axis=1)
        ends = paired_interval(
            data,
            bounds=sides.bounds,
            level=how.level,
            n_resamples=how.n_resamples,
            seed=how.seed,
        )
        found["low"][places], found["high"][places] = ends
        found["effect"][places] = cohens_dz(data)
        found["p"][places] = sign_flip_p(data, n_resamples=how.n_resamples, seed=how.seed)
        if margin is not None:
            found["p_equivalent"][places] = tost_p(data, margin, bounds=sides.bounds)
    for name in _MEASURES:
        table[name] = found[name]
    if correction == "bh":
        table["q"] = benjamini_hochberg(found["p"])
    else:
        differences = _by_unit(units, codes, len(table))
        table["q"] = max_t(differences, n_resamples=how.n_resamples, seed=how.seed)
    method = f"paired by {unit}: BCa bootstrap, sign-flip test, Cohen's d_z"
    if sides.bounds is not None:
        method = method.replace("bootstrap", "bootstrap (Bonett–Price of yes or no)")
    if margin is not None:
        table["p_equivalent"] = found["p_equivalent"]
        table["q_equivalent"] = benjamini_hochberg(found["p_equivalent"])
        method += f", two one-sided t tests against ±{margin:g}"
    return table, method


def _by_unit(units: pd.DataFrame, codes: NDArray[np.int64], n_groups: int) -> Floats:
    """The differences as [groups, units], NaN where a group lacks a unit."""
    columns, names = pd.factorize(units["unit"])
    found = np.full((n_groups, len(names)), np.nan)
    found[codes, columns] = units["b"] - units["a"]
    return found
