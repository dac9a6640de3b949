"""Causal traces against a loop over samples, layers and tokens."""

import gc
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlux.engine import HookedModel, memory
from mlux.methods.causal_tracing import EMBEDDING, _draws, _noise, causal_trace, embedding_std
from mlux.methods.edits import path_of

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from tiny import TOKENS, tiny  # the tiny models of the engine's tests

IDS = TOKENS[0].tolist()
NOISED = [2, 3]
AROUND = {
    1: ((0,), (1,), (2,)),
    2: ((0,), (0, 1), (1, 2)),
    3: ((0, 1), (0, 1, 2), (1, 2)),
}
"""Window → for each of three layers the layers that are restored, as ROME's code chooses them."""


def probability(model: HookedModel, hooks: Any = ()) -> float:
    return float(mx.softmax(model.run_with_hooks([IDS], hooks=hooks)[0, -1])[7].item())


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize(("site", "window"), [("resid_post", 1), ("mlp_out", 2), ("attn_out", 3)])
def test_it_equals_a_loop(family: str, site: Any, window: int) -> None:
    model = tiny(family)
    options: Any = {"sigma": 0.4, "samples": 3, "seed": 5}
    trace = causal_trace(model, IDS, answer=7, noised=NOISED, site=site, window=window, **options)
    noise = _noise(_draws(model, len(NOISED), 0.4, 3, 5), len(IDS), NOISED)
    assert mx.sum(noise[:, [0, 1, 4, 5, 6, 7]] != 0).item() == 0
    _, clean = model.run_with_cache([IDS], hooks=[path_of(site, layer) for layer in range(3)])
    for layer in range(3):
        for place in (0, 2, 3, 7):
            values = []
            for draw in noise:

                def add(inputs: Any, output: mx.array, w: Any, draw: mx.array = draw) -> mx.array:
                    return output + draw

                def restore(inputs: Any, output: mx.array, w: Any, place: int = place) -> mx.array:
                    output = output[...]
                    output[:, place] = clean[w.path][:, place]
                    return output

                paths = [path_of(site, i) for i in AROUND[window][layer]]
                hooks = [(EMBEDDING, add), *((path, restore) for path in paths)]
                values.append(probability(model, hooks))
            assert trace.restored[layer][place] == pytest.approx(sum(values) / 3, abs=1e-4)
    assert trace.clean == pytest.approx(probability(model), abs=1e-4)


def test_restoring_the_end_of_the_last_block_restores_everything() -> None:
    trace = causal_trace(tiny("llama"), IDS, answer=7, noised=NOISED, sigma=1.0, samples=2)
    assert trace.restored[2][7] == pytest.approx(trace.clean, abs=1e-6)
    assert trace.indirect_effect[2][7] == pytest.approx(trace.total_effect, abs=1e-6)


def test_no_noise_has_no_effect() -> None:
    trace = causal_trace(tiny("llama"), IDS, answer=7, noised=NOISED, sigma=0.0, samples=2)
    assert trace.total_effect == 0.0
    assert all(
        value == pytest.approx(0, abs=1e-6) for row in trace.indirect_effect for value in row
    )


@pytest.mark.parametrize("samples", [7, 60])
def test_a_small_budget_splits_the_samples(samples: int) -> None:
    model = HookedModel.from_pretrained("demo")
    ids = model.tokenize("the capital of france is")
    options: Any = {"answer": ids[-1], "noised": [4], "sigma": 1.0, "samples": samples}
    large = causal_trace(model, ids, **options)
    gc.collect()
    memory.reset_peak()
    before = mx.get_active_memory()
    small = causal_trace(model, ids, memory=600_000, **options)
    assert memory.peak() - before <= 600_000
    assert small.noised == pytest.approx(large.noised, abs=1e-5)
    for ours, theirs in zip(small.restored, large.restored, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_the_noise_is_measured_in_the_embeddings_own_unit() -> None:
    model = tiny("llama")
    vectors = model.model.model.embed_tokens(mx.array([4, 9, 9]))
    assert embedding_std(model, [[4, 9], [9]]) == pytest.approx(mx.std(vectors).item(), rel=1e-4)
