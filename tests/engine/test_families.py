"""The canonical places mean the same on every family."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn.layers.base import Module
from tiny import CONFIGS, TOKENS, tiny

from mlux.engine import ActivationCache, HookedModel, sites
from mlux.engine.arrays import to_numpy
from mlux.errors import HookError


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> HookedModel:
    return tiny(request.param)


def everything(model: HookedModel) -> tuple[mx.array, ActivationCache]:
    return model.run_with_cache(TOKENS, hooks=lambda path: sites.parse(path) is not None)


def close(a: mx.array, b: mx.array, tolerance: float = 1e-5) -> bool:
    scale = float(mx.max(mx.abs(b))) or 1.0
    return float(mx.max(mx.abs(a - b))) <= tolerance * scale


def test_looking_changes_not_one_bit(model: HookedModel) -> None:
    bare = model.model(TOKENS)
    logits, _ = everything(model)
    assert mx.array_equal(bare, logits)
    assert mx.array_equal(bare, model.model(TOKENS))


def test_the_residual_stream_is_the_sum_of_what_is_added(model: HookedModel) -> None:
    _, cache = everything(model)
    for layer in range(len(model.layers)):
        added = cache[sites.attn_out(layer)] + cache[sites.mlp_out(layer)]
        assert close(cache[sites.resid_pre(layer)] + added, cache[sites.resid_post(layer)])


def test_a_block_reads_what_the_one_before_wrote(model: HookedModel) -> None:
    _, cache = everything(model)
    for layer in range(1, len(model.layers)):
        assert mx.array_equal(cache[sites.resid_pre(layer)], cache[sites.resid_post(layer - 1)])


def test_pattern_rows_sum_to_one_and_never_look_ahead(model: HookedModel) -> None:
    patterns = model.get_attention_patterns(TOKENS)
    assert sorted(patterns) == list(range(len(model.layers)))
    for pattern in patterns.values():
        assert pattern.shape == (2, model.config["n_heads"], 8, 8)
        assert close(mx.sum(pattern, axis=-1), mx.ones(pattern.shape[:3]))
        assert float(mx.max(mx.abs(mx.triu(pattern, k=1)))) == 0.0


def test_z_is_the_pattern_times_v(model: HookedModel) -> None:
    _, cache = everything(model)
    for layer in range(len(model.layers)):
        pattern, v = cache[sites.tap(layer, "pattern")], cache[sites.tap(layer, "v")]
        assert close(pattern @ v, cache[sites.tap(layer, "z")])


def test_the_heads_of_a_layer_sum_to_its_attention(model: HookedModel) -> None:
    """Σ over heads of the output projection of one head's z, plus the bias once."""
    block = model.anatomy.blocks[1]
    assert block.o_proj is not None
    output: Module = dict(model.model.named_modules())[block.o_proj]
    _, cache = model.run_with_cache(TOKENS, hooks=[sites.tap(1, "z"), block.o_proj])
    z = cache[sites.tap(1, "z")]  # [batch, n_heads, seq, d_head]
    zero = mx.zeros((2, 8, z.shape[1] * z.shape[3]))
    total = output(zero)
    for head in range(block.n_heads):
        alone = mx.zeros_like(z)
        alone[:, head] = z[:, head]
        total = total + output(alone.transpose(0, 2, 1, 3).reshape(2, 8, -1)) - output(zero)
    assert close(total, cache[block.o_proj])


def test_head_is_its_slice_of_z(model: HookedModel) -> None:
    _, cache = everything(model)
    z = cache[sites.tap(1, "z")]
    for head in range(model.config["n_heads"]):
        assert mx.array_equal(cache[sites.head(1, head)], z[:, head])


def test_silencing_a_head_is_silencing_its_part_of_the_output_projection() -> None:
    for name in ("llama", "gpt2", "gemma2"):
        model = tiny(name)
        block = model.anatomy.blocks[1]
        output = dict(model.model.named_modules())[block.o_proj]
        hooked = model.run_with_hooks(
            TOKENS, hooks=[(sites.head(1, 2), lambda inputs, out, wrapper: mx.zeros_like(out))]
        )
        weight = output.weight
        silent = mx.array(weight)
        silent[:, 2 * block.d_head : 3 * block.d_head] = 0.0
        try:
            output.weight = silent
            assert close(hooked, model.model(TOKENS)), name
        finally:
            output.weight = weight


def test_the_lens_at_the_last_layer_is_the_model_itself(model: HookedModel) -> None:
    logits, cache = everything(model)
    last = cache[sites.resid_post(len(model.layers) - 1)]
    assert mx.array_equal(model.unembed(last), logits)


def test_running_from_a_block_on_is_running_all_of_it(model: HookedModel) -> None:
    logits, cache = everything(model)
    for layer in range(len(model.layers)):
        resumed, _ = model.run_from(layer, cache[sites.resid_pre(layer)])
        assert mx.array_equal(resumed, logits)
    positions = mx.array([7, 3])
    scored, _ = model.run_from(1, cache[sites.resid_pre(1)], positions=positions)
    assert close(scored[0, 0], logits[0, 7])
    assert close(scored[1, 0], logits[1, 3])


KINDS = ("embed", "resid_pre", "resid_post", "attn_out", "mlp_out", "norm", *sites.TAPS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_site_can_be_edited(model: HookedModel, kind: sites.Kind) -> None:
    paths = [p for p in model.available_hooks() if (s := sites.parse(p)) and s.kind == kind]
    logits = model.forward(TOKENS)
    path = paths[len(paths) // 2]
    same = model.run_with_hooks(TOKENS, hooks=[(path, lambda inputs, out, wrapper: out)])
    assert mx.array_equal(same, logits)
    replaced = model.run_with_hooks(TOKENS, hooks=[(path, lambda inputs, out, wrapper: out * 1)])
    assert close(replaced, logits)
    changed = model.run_with_hooks(
        TOKENS, hooks=[(path, lambda inputs, out, wrapper: mx.roll(out, 1, axis=-1))]
    )
    assert not close(changed, logits, 1e-3)


def test_a_row_of_a_batch_is_what_it_is_alone(model: HookedModel) -> None:
    short, long = [3, 5, 7], [2, 4, 6, 8, 10]
    padded = mx.array([[*short, 0, 0], long])
    logits = model.forward(padded)
    assert close(logits[0, :3], model.forward(mx.array([short]))[0], 1e-4)
    assert close(logits[1], model.forward(mx.array([long]))[0], 1e-4)


def slow_pattern(q: np.ndarray, k: np.ndarray, scale: float, window: int | None) -> np.ndarray:
    """Softmax attention of one head, entry by entry."""
    seq = len(q)
    pattern = np.zeros((seq, seq))
    for i in range(seq):
        first = 0 if window is None else max(0, i - window + 1)
        scores = np.array([q[i] @ k[j] * scale for j in range(first, i + 1)])
        weights = np.exp(scores - scores.max())
        pattern[i, first : i + 1] = weights / weights.sum()
    return pattern


@pytest.mark.parametrize(
    ("name", "layer", "scale", "window"),
    [
        ("llama", 1, 8**-0.5, None),
        ("qwen3", 1, 16**-0.5, None),
        ("gpt2", 1, 8**-0.5, None),
        ("gemma3_text", 0, 256**-0.5, 4),
        ("gemma3_text", 5, 256**-0.5, None),
    ],
)
def test_patterns_equal_attention_worked_out_by_hand(
    name: str, layer: int, scale: float, window: int | None
) -> None:
    _, cache = tiny(name).run_with_cache(
        TOKENS, hooks=[sites.tap(layer, kind) for kind in ("q", "k", "pattern")]
    )
    q, k, pattern = (to_numpy(cache[sites.tap(layer, kind)]) for kind in ("q", "k", "pattern"))
    for row in range(2):
        for head in range(4):
            expected = slow_pattern(q[row, head], k[row, head], scale, window)
            np.testing.assert_allclose(pattern[row, head], expected, atol=1e-6)


def test_what_a_model_lacks_is_said() -> None:
    model = tiny("llama")
    with pytest.raises(HookError, match=r"this model has 3 layers, 0 to 2"):
        model.run_with_cache(TOKENS, hooks=["model.layers.3"])
    with pytest.raises(HookError, match=r"block 0 has 4 heads, 0 to 3"):
        model.run_with_cache(TOKENS, hooks=["model.layers.0.self_attn.head.4"])
