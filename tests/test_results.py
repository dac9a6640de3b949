"""Results are plain numbers at places that can be said."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlux.results import AXES, Values


def test_axes_that_a_metric_lacks_are_minus_one() -> None:
    assert list(Values(metric="accuracy", values=0.5).rows()) == [(-1, -1, -1, 0.5)]
    by_layer = Values(metric="rank", values=[1, 2], axes=("layer",), index={"layer": [4, 5]})
    assert list(by_layer.rows()) == [(4, -1, -1, 1.0), (5, -1, -1, 2.0)]


@given(
    sizes=st.lists(st.integers(1, 4), min_size=0, max_size=3),
    data=st.data(),
)
def test_every_number_keeps_its_place(sizes: list[int], data: st.DataObject) -> None:
    axes = data.draw(st.permutations(AXES).map(lambda order: tuple(order[: len(sizes)])))
    counter = iter(range(1000))
    expected = {}

    def nest(depth: int, place: dict[str, int]) -> object:
        if depth == len(sizes):
            value = float(next(counter))
            expected[tuple(place.get(axis, -1) for axis in AXES)] = value
            return value
        return [nest(depth + 1, place | {axes[depth]: i}) for i in range(sizes[depth])]

    values = Values(metric="m", values=nest(0, {}), axes=axes)  # type: ignore[arg-type] # built to fit
    assert {row[:3]: row[3] for row in values.rows()} == expected


@pytest.mark.parametrize(
    ("values", "axes"),
    [
        ([1.0], ()),
        (1.0, ("layer",)),
        ([[1.0], [1.0, 2.0]], ("layer", "head")),
        ([[1.0]], ("layer",)),
        (["a"], ("layer",)),
        ([1.0], ("neuron",)),
        ([[1.0]], ("layer", "layer")),
    ],
)
def test_values_that_do_not_fit_their_axes_are_refused(values: object, axes: object) -> None:
    with pytest.raises(ValueError, match=r"nested|shape|axes are"):
        list(Values(metric="m", values=values, axes=axes).rows())  # type: ignore[arg-type] # on purpose


def test_the_first_number_that_is_not_finite_is_found() -> None:
    nan, inf = float("nan"), float("inf")
    axes = ("layer", "head")
    for values, place in (
        ([[1.0, inf], [-inf, 0.0]], (0, 1)),
        ([[1.0, 2.0], [nan, inf]], (1, 0)),
        ([[1e308, 1e308], [1e308, 0.0]], None),
    ):
        row = Values(metric="m", values=values, axes=axes).first_infinite()
        assert (row and row[:2]) == place
    assert list(Values(metric="m", values=[[], []], axes=axes).rows()) == []


def test_an_index_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="index does not fit"):
        list(Values(metric="m", values=[1.0], axes=("layer",), index={"layer": [1, 2]}).rows())


def test_arrays_are_numbers_too() -> None:
    for values in (
        np.array([1.0, 2.0], dtype=np.float32),
        mx.array([1.0, 2.0]),
        [np.float32(1), 2],
    ):
        rows = list(Values(metric="m", values=values, axes=("layer",)).rows())  # type: ignore[arg-type] # arrays
        assert rows == [(0, -1, -1, 1.0), (1, -1, -1, 2.0)]
    assert list(Values(metric="m", values=mx.array(3.0)).rows()) == [(-1, -1, -1, 3.0)]  # type: ignore[arg-type] # an array
