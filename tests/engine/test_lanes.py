"""Batches side by side: the same numbers, and BLAS as it was found."""

import os
import threading
from collections.abc import Callable, Iterator

import mlx.core as mx
import pytest
from threadpoolctl import ThreadpoolController

from mlux.engine import HookedModel, blas, lanes


def blas_threads() -> list[int]:
    """Of the libraries that were there at first use: MLX's BLAS, not what SciPy loads later."""
    ours = {library["filepath"] for library in lanes._blas().info()}
    libraries = ThreadpoolController().select(user_api="blas").info()
    return [one["num_threads"] for one in libraries if one["filepath"] in ours]


@pytest.fixture(autouse=True)
def several_cores() -> Iterator[None]:
    """BLAS on two cores, whatever the environment of the tests says."""
    with lanes._blas().limit(limits=2):
        yield


def test_the_blas_of_mlx_is_the_one_that_is_limited() -> None:
    library = blas.load().library
    assert library is None or os.path.realpath(library) in {
        os.path.realpath(one["filepath"]) for one in lanes._blas().info()
    }


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return HookedModel.from_pretrained("demo")


def test_each_lane_computes_what_one_alone_computes(model: HookedModel) -> None:
    prompts = [[1, number, 3, 4] for number in range(7)]

    def builder(ids: list[int]) -> Callable[[], tuple[mx.array, dict[str, mx.array]]]:
        return lambda: model.run_with_cache(mx.array([ids] * 5), lazy=True)

    found = list(lanes.side_by_side(map(builder, prompts), lanes=3))
    for ids, (logits, cache) in zip(prompts, found, strict=True):
        alone, kept = model.run_with_cache(mx.array([ids] * 5))
        assert mx.allclose(logits, alone, atol=1e-4)
        assert cache.keys() == kept.keys()
        for path, array in kept.items():
            assert mx.allclose(cache[path], array, atol=1e-4)


def test_blas_has_its_cores_back_also_after_an_error() -> None:
    before = blas_threads()
    seen: list[int] = []

    def look() -> mx.array:
        seen.extend(blas_threads())
        return mx.array(1)

    def fail() -> mx.array:
        raise ValueError("on purpose")

    assert [x.item() for x in lanes.side_by_side([look, look], lanes=2)] == [1, 1]
    assert set(seen) == {1}
    assert blas_threads() == before
    with pytest.raises(ValueError, match="on purpose"):
        list(lanes.side_by_side([look, fail], lanes=2))
    assert blas_threads() == before
    seen.clear()
    list(lanes.side_by_side([look], lanes=1))
    assert seen == before


def test_threads_that_overlap_give_blas_its_cores_back() -> None:
    before = blas_threads()
    first, second = threading.Event(), threading.Event()
    found: list[int] = []

    def slow() -> mx.array:
        first.set()
        second.wait()
        return mx.array(1)

    def run() -> None:
        found.extend(x.item() for x in lanes.side_by_side([slow], lanes=2))

    outer = threading.Thread(target=run)
    outer.start()
    first.wait()
    assert [x.item() for x in lanes.side_by_side([lambda: mx.array(2)], lanes=2)] == [2]
    second.set()
    outer.join()
    assert found == [1]
    assert blas_threads() == before
    assert [x.item() for x in lanes.side_by_side([lambda: mx.array(3)], lanes=2)] == [3]
    assert blas_threads() == before
