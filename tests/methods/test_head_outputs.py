"""The heads and the bias of a layer sum to its attention output, on every family."""

import mlx.core as mx
import pytest
from tiny import CONFIGS, TOKENS, tiny

from mlux.engine import HookedModel, sites
from mlux.errors import ModelError
from mlux.methods.ablation import zero_heads
from mlux.methods.head_outputs import head_outputs


@pytest.mark.parametrize("name", CONFIGS)
def test_heads_and_bias_sum_to_what_attention_adds(name: str) -> None:
    model = tiny(name)
    tokens = mx.array(TOKENS)
    positions = mx.full((tokens.shape[0],), tokens.shape[1] - 2)
    layers, logits = head_outputs(model, tokens, positions)
    whole, cache = model.run_with_cache(tokens, hooks=[sites.attn_out(0)])
    assert mx.allclose(logits, whole[:, -2], atol=1e-4)
    assert mx.array_equal(layers[0].attn_out, cache[sites.attn_out(0)][:, -2])
    nothing = [(sites.tap(one.layer, "z"), lambda i, z, w: mx.zeros_like(z)) for one in layers]
    plain = name not in ("gemma2", "gemma3_text", "olmo2")
    for one, hook in zip(layers, nothing, strict=True):
        rest = one.attn_out - one.added.sum(axis=1)  # the bias, if there is one
        if plain:  # behind a norm the bias is scaled by a norm that the heads decide
            _, silent = model.run_from(
                one.layer,
                _resid_pre(model, tokens, one.layer),
                hooks=[hook],
                captures=[sites.attn_out(one.layer)],
                tokens=tokens,
            )
            expected = silent[sites.attn_out(one.layer)][:, -2].astype(mx.float32)
        else:
            expected = mx.zeros_like(rest)  # none of these has a bias
        assert mx.allclose(rest, expected, atol=2e-4), one.layer


def _resid_pre(model: HookedModel, tokens: mx.array, layer: int) -> mx.array:
    path = sites.resid_pre(layer)
    return model.run_with_cache(tokens, hooks=[path])[1][path]


def test_a_head_adds_what_is_missing_without_it(demo: HookedModel) -> None:
    batch = demo.to_batch(["the capital of france is", "mary lives in"])
    layers, _ = head_outputs(demo, batch.tokens, batch.last)
    resid = _resid_pre(demo, batch.tokens, 2)
    path = sites.attn_out(2)
    _, without = demo.run_from(2, resid, hooks=zero_heads([(2, 3)]), captures=[path])
    at_last = mx.take_along_axis(without[path], batch.last[:, None, None], axis=1)[:, 0]
    assert mx.allclose(layers[2].attn_out - at_last, layers[2].added[:, 3], atol=1e-4)


def test_heads_that_no_single_map_joins_are_refused(demo: HookedModel) -> None:
    from dataclasses import replace

    broken = replace(demo.anatomy.blocks[1], o_proj=None)
    layout = replace(
        demo.layout,
        anatomy=replace(
            demo.anatomy,
            blocks=(demo.anatomy.blocks[0], broken, *demo.anatomy.blocks[2:]),
        ),
    )
    model = HookedModel.from_pretrained("demo")
    model.__dict__["layout"] = layout
    with pytest.raises(ModelError, match="Block 1 has no single map that joins its heads"):
        head_outputs(model, model.to_batch("mary lives in").tokens, mx.array([3]))
