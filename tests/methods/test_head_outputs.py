"""What heads hold is z, and what they add is missing without them, on every family."""

from dataclasses import replace

import mlx.core as mx
import pytest
from tiny import CONFIGS, TOKENS, tiny

from mlux.engine import HookedModel, sites
from mlux.errors import ModelError
from mlux.methods.ablation import zero_heads
from mlux.methods.head_outputs import head_outputs


@pytest.mark.parametrize("name", CONFIGS)
def test_heads_hold_z_and_sum_to_what_attention_adds(name: str) -> None:
    model = tiny(name)
    positions = mx.full((TOKENS.shape[0],), TOKENS.shape[1] - 2)
    layers, logits = head_outputs(model, TOKENS, positions)
    paths = [make(one.layer) for one in layers for make in (sites.attn_out, _z)]
    whole, cache = model.run_with_cache(TOKENS, hooks=paths)
    assert mx.allclose(logits, whole[:, -2], atol=1e-4)
    bias_free = name not in ("gpt2", "gpt_neox", "qwen2")
    for one in layers:
        assert mx.array_equal(one.z, cache[_z(one.layer)][:, :, -2])
        if bias_free:
            attn_out = cache[sites.attn_out(one.layer)][:, -2]
            assert mx.allclose(mx.sum(one.added, axis=1), attn_out, atol=2e-4)


def _z(layer: int) -> str:
    return sites.tap(layer, "z")


def test_a_head_adds_what_is_missing_without_it(demo: HookedModel) -> None:
    batch = demo.to_batch(["the capital of france is", "mary lives in"])
    layers, _ = head_outputs(demo, batch.tokens, batch.last)
    path = sites.attn_out(2)
    missing = []
    for hooks in ([], zero_heads([(2, 3)])):
        _, start = demo.run_with_cache(batch.tokens, hooks=[sites.resid_pre(2)])
        _, cache = demo.run_from(2, start[sites.resid_pre(2)], hooks=hooks, captures=[path])
        missing.append(mx.take_along_axis(cache[path], batch.last[:, None, None], axis=1)[:, 0])
    assert mx.allclose(missing[0] - missing[1], layers[2].added[:, 3], atol=1e-4)


def test_heads_that_no_single_map_joins_are_refused() -> None:
    model = HookedModel.from_pretrained("demo")
    anatomy = model.anatomy
    blocks = (anatomy.blocks[0], replace(anatomy.blocks[1], o_proj=None), *anatomy.blocks[2:])
    model.__dict__["layout"] = replace(model.layout, anatomy=replace(anatomy, blocks=blocks))
    with pytest.raises(ModelError, match="Block 1 has no single map that joins its heads"):
        head_outputs(model, model.to_batch("mary lives in").tokens, mx.array([3]))
