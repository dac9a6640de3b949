"""What an experiment yields: frozen values of plain Python numbers, ready for the store.

A metric without a layer, head or position simply leaves that axis out. Nothing here knows MLX,
SQL or pandas, so every layer of mlux may import it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain, product
from math import isfinite, prod
from numbers import Real
from typing import Any, Literal

Axis = Literal["layer", "head", "position"]
AXES: tuple[Axis, ...] = ("layer", "head", "position")
NOT_APPLICABLE = -1
"""Stands in a key for "no layer", "no head" or "no position"; the views show NULL."""

Row = tuple[int, int, int, float]
"""(layer, head, position, value)."""

Places = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Layers, heads and positions, one of each for every number."""

Columns = tuple[Sequence[int], Sequence[int], Sequence[int], list[float]]
"""Layers, heads, positions and values."""


BOUNDS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("probability", "share", "accuracy", "yes or no"), (0.0, 1.0)),
    **dict.fromkeys(("probability difference", "accuracy difference"), (-1.0, 1.0)),
    **dict.fromkeys(("cosine", "r"), (-1.0, 1.0)),
}
"""Units whose values cannot leave a range, with its ends; intervals stay within them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """What a number means: its name, its unit, and which way is better.

    A unit of `BOUNDS` says between which ends its values lie.
    """

    name: str
    unit: str
    description: str
    better: Literal["higher", "lower", "neither"] = "neither"

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and the largest value that there can be; None if there are no such ends."""
        return BOUNDS.get(self.unit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Values:
    """One metric of one trial over any of the axes layer, head and position.

    Attributes:
        metric: The metric's name, declared by the experiment.
        values: A number, or nested sequences of numbers with one level for each of `axes`, or an
            array of NumPy or MLX.
        axes: Which axes the nesting has, outermost first.
        index: For an axis whose entries are not 0, 1, 2, …: the layer, head or position of each.

    Example:
        >>> list(Values(metric="rank", values=[3.0, 0.0], axes=("layer",)).rows())
        [(0, -1, -1, 3.0), (1, -1, -1, 0.0)]
    """

    metric: str
    values: float | Sequence[object]
    axes: tuple[Axis, ...] = ()
    index: Mapping[Axis, Sequence[int]] = field(default_factory=dict)

    def rows(self) -> Iterator[Row]:
        """One (layer, head, position, value) for each number; -1 where there is no such axis.

        Raises:
            ValueError: If the nesting of `values` does not fit `axes` and `index`.
        """
        return zip(*self.columns(), strict=True)

    def columns(self) -> Columns:
        """The same as `rows`, as four sequences side by side.

        Raises:
            ValueError: If the nesting of `values` does not fit `axes` and `index`.
        """
        if not set(self.axes) <= set(AXES) or len(set(self.axes)) < len(self.axes):
            raise ValueError(f"{self.metric}: axes are {self.axes}; expected some of {AXES}")
        flat, sizes = _flatten(self.values, len(self.axes))
        labels = tuple(
            tuple(map(int, self.index[axis])) if axis in self.index else range(size)
            for axis, size in zip(self.axes, sizes, strict=True)
        )
        if [len(entries) for entries in labels] != sizes:
            raise ValueError(f"{self.metric}: index does not fit values of shape {sizes}")
        return (*_places(self.axes, labels), flat)

    def first_infinite(self) -> Row | None:
        """The first place whose value is infinite or not a number, with that value."""
        return first_infinite(self.columns())


def first_infinite(columns: Columns) -> Row | None:
    """The first row whose value is infinite or not a number: no mean or test can hold it."""
    # A sum is finite only if its parts are; that it is not may come of large ones.
    if isfinite(sum(columns[3])):
        return None
    return next((row for row in zip(*columns, strict=True) if not isfinite(row[3])), None)


# A run has grids of few shapes, over and over.
@lru_cache(maxsize=8)
def _places(axes: tuple[Axis, ...], labels: tuple[Sequence[int], ...]) -> Places:
    """The layers, heads and positions of a grid with these axes, in the order of its numbers."""
    if not axes:
        return (NOT_APPLICABLE,), (NOT_APPLICABLE,), (NOT_APPLICABLE,)
    if not prod(map(len, labels)):
        return (), (), ()
    columns = dict(zip(axes, zip(*product(*labels), strict=True), strict=True))
    absent = (NOT_APPLICABLE,) * prod(map(len, labels))
    layers, heads, positions = (columns.get(axis, absent) for axis in AXES)
    return layers, heads, positions


def at(
    metric: str,
    value: float,
    *,
    layer: int | None = None,
    head: int | None = None,
    position: int | None = None,
) -> Values:
    """One number at one place; what the place lacks is None.

    Example:
        >>> list(at("effect", 0.5, layer=3, head=1).rows())
        [(3, 1, -1, 0.5)]
    """
    places: dict[Axis, int | None] = {"layer": layer, "head": head, "position": position}
    index: dict[Axis, Sequence[int]] = {
        axis: [place] for axis, place in places.items() if place is not None
    }
    nested: Any = value
    for _ in index:
        nested = [nested]
    return Values(metric=metric, values=nested, axes=tuple(index), index=index)


def _flatten(values: object, depth: int) -> tuple[list[float], list[int]]:
    """The numbers of an array or nested sequence in order, and its shape."""
    level, sizes = _unnested(values, depth)
    kinds = set(map(type, level))
    # Of types, not of items: millions of numbers have one or two.
    if not all(issubclass(kind, Real) for kind in kinds):
        raise ValueError(f"values are nested deeper than their {depth} axes")
    assert len(level) == prod(sizes)
    return (level if kinds == {float} else list(map(float, level))), sizes


def _unnested(values: Any, depth: int) -> tuple[list[Any], list[int]]:
    if len(getattr(values, "shape", ())) == depth and hasattr(values, "reshape"):
        return values.reshape(-1).tolist(), list(values.shape)
    level = [_plain(values)]
    sizes: list[int] = []
    for _ in range(depth):
        lengths = {len(item) if isinstance(item, Sequence) else -1 for item in level}
        if len(lengths) != 1 or -1 in lengths:
            raise ValueError(f"values are not nested {depth} deep in equal lengths")
        sizes.append(lengths.pop())
        level = list(chain.from_iterable(level))
        if any(hasattr(kind, "tolist") for kind in set(map(type, level))):
            level = list(map(_plain, level))
    return level, sizes


def _plain(values: Any) -> Any:
    """Lists of numbers, also from an array of NumPy or MLX."""
    return values.tolist() if hasattr(values, "tolist") else values


@dataclass(frozen=True, kw_only=True, slots=True)
class TopTokens:
    """The most probable next tokens at one place, best first.

    Attributes:
        token_ids: The model's token ids; rank 0 is the first.
        logprobs: Their natural-log probabilities.
        layer: The block after which the lens looked.
        position: The position in the prompt whose next token is predicted.
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    layer: int
    position: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """A text that the model continued."""

    text: str
    token_ids: Sequence[int]
    sample: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RanTokens:
    """Token ids that a trial ran beside its clean and corrupted prompt, such as `zero_shot`."""

    role: str
    token_ids: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """Arrays that are kept as a file beside the database.

    Attributes:
        name: Its name, unique within the run or trial that it belongs to.
        kind: What it is: `vectors`, `lens`, `activations`, `patterns`, `probes`.
        arrays: Name → array of NumPy or MLX.
        metadata: What a reader has to know to use it.
    """

    name: str
    kind: str
    arrays: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """What an experiment learned from all prompts of a run before its first trial.

    Attributes:
        state: Handed to every trial as `batch.fitted`.
        artifacts: Kept with the run.
    """

    state: Any
    artifacts: Sequence[Artifact] = ()


Result = Values | TopTokens | Generation | RanTokens | Artifact
