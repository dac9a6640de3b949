"""Contributions sum to the logit difference on every kind of architecture."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlux import prompts
from mlux.engine import HookedModel, sites
from mlux.engine.arrays import to_numpy
from mlux.engine.trials import encode
from mlux.errors import ModelError
from mlux.methods.direct_logit_attribution import Contributions, direct_logit_attribution
from tests.engine.architectures import build

TOKENS = mx.array([[3, 5, 7, 11, 13, 17, 19, 23], [2, 4, 6, 8, 10, 12, 14, 16]])
POSITIONS = mx.array([7, 4])
ANSWERS, WRONG = [5, 50], [9, 80]


def attribute(model: HookedModel) -> Contributions:
    return direct_logit_attribution(
        model, TOKENS, positions=POSITIONS, answers=ANSWERS, wrong_answers=WRONG
    )


# Post-norms and a soft-cap (gemma2), parallel blocks (cohere, gpt_neox), factors (granite), biases
# and LayerNorm (gpt2), post-norms alone (olmo2), latent attention and experts (deepseek_v3), gated
# heads among linear attention (qwen3_next), no attention at all (mamba).
FAMILIES = [
    "llama",
    "gemma2",
    "cohere",
    "gpt_neox",
    "granite",
    "gpt2",
    "olmo2",
    "deepseek_v3",
    "qwen3_next",
    "mamba",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_contributions_sum_to_the_logit_difference(name: str) -> None:
    model = build(name)
    found = attribute(model)
    logits = to_numpy(model.forward(TOKENS))[[0, 1], [7, 4]]
    expected = logits[[0, 1], ANSWERS] - logits[[0, 1], WRONG]
    assert to_numpy(found.logit_diff) == pytest.approx(expected, abs=1e-4)
    assert float(mx.max(found.unexplained)) <= 1e-3
    attending = [layer for layer, block in enumerate(model.anatomy.blocks) if block.n_heads]
    assert sorted(found.heads) == attending, "heads of a block were not told apart"
    if name != "gemma2":
        assert to_numpy(found.uncapped) == pytest.approx(expected, abs=1e-4)


def test_a_soft_cap_is_left_out_of_the_sum_and_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma 2's tokens before and after its cap of 30 · tanh(x / 30)."""
    model = build("gemma2")
    found = attribute(model)
    cap = model.model.final_logit_softcapping
    monkeypatch.setattr(model.model, "final_logit_softcapping", 1e9)
    logits = to_numpy(model.forward(TOKENS))[[0, 1], [7, 4]]
    expected = logits[[0, 1], ANSWERS] - logits[[0, 1], WRONG]
    assert cap == 30.0
    assert to_numpy(found.uncapped) == pytest.approx(expected, rel=1e-3)
    assert np.max(np.abs(to_numpy(found.uncapped - found.logit_diff))) > 0.01


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_a_head_contributes_what_its_weights_say(name: str) -> None:
    """The slow twin in NumPy: z through the head's columns, the norms behind it, the unembedding.

    Gemma 2 has a norm behind its attention, gains of 1 + w and tied embeddings.
    """
    model = build(name)
    gemma, layer = name == "gemma2", 1
    block, inner = model.layers[layer], model.model.model
    paths = [sites.tap(layer, "z"), sites.resid_post(len(model.layers) - 1)]
    _, cache = model.run_with_cache(TOKENS, hooks=paths)
    z = to_numpy(cache[paths[0]])[[0, 1], :, [7, 4]]  # [rows, n_heads, d_head]
    resid = to_numpy(cache[paths[1]])[[0, 1], [7, 4]]  # [rows, d_model]
    columns = to_numpy(block.self_attn.o_proj.weight).reshape(-1, *z.shape[1:])
    written = np.einsum("dhk,rhk->rhd", columns, z)
    if gemma:
        written = written * gain_over_rms(
            block.post_attention_layernorm, written.sum(axis=1), one_plus=True
        )
    written = written * gain_over_rms(inner.norm, resid, one_plus=gemma)
    unembed = to_numpy((inner.embed_tokens if gemma else model.model.lm_head).weight)
    expected = np.einsum("rhd,rd->rh", written, unembed[ANSWERS] - unembed[WRONG])
    found = to_numpy(attribute(model).heads[layer])
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)


def gain_over_rms(norm: Any, given: np.ndarray, *, one_plus: bool) -> np.ndarray:
    """[rows, 1, d_model], what each entry is multiplied by."""
    rms = np.sqrt((given**2).mean(axis=-1, keepdims=True) + norm.eps)
    scaled: np.ndarray = ((to_numpy(norm.weight) + one_plus) / rms)[:, None]
    return scaled


def test_models_whose_stream_is_no_sum_are_refused_with_the_reason() -> None:
    with pytest.raises(ModelError, match=r"no direct logit attribution: block 0: .*is no sum"):
        attribute(build("gemma3n"))


@pytest.mark.parametrize(("name", "allowed"), [("demo", 1e-3), ("demo-4bit", 1e-3)])
def test_the_built_in_model_is_explained_to_a_thousandth(name: str, allowed: float) -> None:
    model = HookedModel.from_pretrained(name)
    for prompt_set in ("ioi", "facts", "reviews"):
        encoded = [encode(model, prompt) for prompt in prompts.load(prompt_set).prompts[:24]]
        batch = model.to_batch([list(e.ids) for e in encoded])
        found = direct_logit_attribution(
            model,
            batch.tokens,
            positions=batch.last,
            answers=[e.answer or 0 for e in encoded],
            wrong_answers=[e.wrong_answer or 0 for e in encoded],
        )
        assert float(mx.max(found.unexplained)) <= allowed
        assert float(mx.max(mx.abs(found.uncapped - found.logit_diff))) <= 1e-4


def test_half_precision_is_explained_up_to_its_rounding() -> None:
    model = HookedModel.from_pretrained("demo", dtype="float16")
    batch = model.to_batch("the capital of france is")
    paris, rome = (model.tokenize(word)[-1:] for word in ("paris", "rome"))
    found = direct_logit_attribution(
        model, batch.tokens, positions=batch.last, answers=paris, wrong_answers=rome
    )
    assert float(found.unexplained) <= 0.01 * abs(float(found.logit_diff)) + 0.02
