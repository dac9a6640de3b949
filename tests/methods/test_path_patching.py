"""Path patching against its definition: the direct path is the residual stream alone."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlux import prompts
from mlux.engine import HookedModel, sites
from mlux.engine.trials import EncodedPrompt, encode
from mlux.errors import ModelError, PromptError
from mlux.methods.edits import Edit
from mlux.methods.path_patching import every_sender, path_patching, require_sum

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from architectures import build  # one tiny model an architecture
from tiny import TOKENS, tiny  # the tiny models of the engine's tests


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return HookedModel.from_pretrained("demo")


@pytest.fixture(scope="module")
def pair(model: HookedModel) -> EncodedPrompt:
    return encode(model, prompts.load("ioi").prompts[1])


def patched(model: HookedModel, ids: Any, others: Any, **options: Any) -> dict[Edit, float]:
    answers = {"answer": 5, "wrong_answer": 9} | options
    return {one.sender: one.logit_diff for one in path_patching(model, ids, others, **answers)}


def put(value: mx.array, head: int | None = None) -> Any:
    def hook(inputs: Any, output: mx.array, wrapper: object) -> mx.array:
        if head is None:
            return value
        output = output[...]
        output[:, head] = value[:, head]
        return output

    return hook


def looped(
    model: HookedModel, ids: Any, others: Any, sender: Edit, receivers: Any, through: Any = ()
) -> float:
    """One path with hooks on everything, the whole model from the tokens on."""
    n = len(model.layers)
    _, own = model.run_with_cache([ids], hooks=model.layout.available().__contains__)
    _, other = model.run_with_cache([others], hooks=[sender.path])
    hooks = []
    for layer in range(n):
        after_attention = layer >= sender.layer if sender.site == "head" else layer > sender.layer
        if layer > sender.layer and sites.attn_out(layer) in own:
            hooks.append((sites.attn_out(layer), put(own[sites.attn_out(layer)])))
        if after_attention and layer not in through:
            hooks.append((sites.mlp_out(layer), put(own[sites.mlp_out(layer)])))
    hooks.append((sender.path, put(other[sender.path], sender.head)))
    if not receivers:
        logits = model.run_with_hooks([ids], hooks=hooks)[0, -1]
        return float(logits[5] - logits[9])
    seen: dict[str, mx.array] = {}

    def see(inputs: Any, output: mx.array, wrapper: Any) -> None:
        seen[wrapper.path] = output[...]

    model.run_with_hooks([ids], hooks=[*hooks, *((edit.path, see) for edit in receivers)])
    second = [(edit.path, put(seen[edit.path], edit.head)) for edit in receivers]
    logits = model.run_with_hooks([ids], hooks=second)[0, -1]
    return float(logits[5] - logits[9])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "qwen3"])
@pytest.mark.parametrize("through", [(), (1, 2)])
@pytest.mark.parametrize("to", ["logits", "q", "k", "v", "both"])
def test_it_equals_hooks_on_everything(family: str, through: tuple[int, ...], to: Any) -> None:
    model = tiny(family)
    ids, others = TOKENS.tolist()
    receivers = [Edit(site=to, layer=2, head=1)] if to in ("q", "k", "v") else []
    if to == "both":
        receivers = [Edit(site="k", layer=1, head=0), Edit(site="q", layer=2, head=3)]
    senders = every_sender(model)
    found = patched(model, ids, others, senders=senders, receivers=receivers, through=through)
    assert set(found) == set(senders)
    for sender in senders[::2]:
        alone = looped(model, ids, others, sender, receivers, through)
        assert found[sender] == pytest.approx(alone, abs=2e-4)


def test_the_direct_effect_is_what_the_sender_adds_to_the_stream(
    model: HookedModel, pair: EncodedPrompt
) -> None:
    """The final norm and the unembedding of the stream with the head's change in it."""
    assert pair.corrupted is not None
    ids, others = [list(pair.ids)], [list(pair.corrupted)]
    senders = [Edit(site="head", layer=layer, head=head) for layer in (1, 2) for head in (0, 1, 3)]
    found = patched(model, *ids, *others, senders=senders)
    _, own = model.run_with_cache(ids)
    for sender in senders:
        _, other = model.run_with_cache(others, hooks=[sender.path])
        hooks = [(sender.path, put(other[sender.path], sender.head))]
        out = sites.attn_out(sender.layer)
        _, changed = model.run_with_cache(ids, hooks=[out], edits=hooks)
        stream = own["model.layers.5"] + changed[out] - own[out]
        logits = model.unembed(stream)[0, -1]
        assert found[sender] == pytest.approx(float(logits[5] - logits[9]), abs=1e-3)


@pytest.mark.parametrize("site", ["logits", "q", "k", "v"])
def test_a_run_patched_by_its_own_senders_is_exactly_itself(
    model: HookedModel, pair: EncodedPrompt, site: Any
) -> None:
    heads = [(2, 0), (2, 3)] if site != "logits" else []
    options: Any = {
        "answer": pair.answer, "wrong_answer": pair.wrong_answer, "senders": every_sender(model),
        "receivers": [Edit(site=site, layer=layer, head=head) for layer, head in heads],
    }  # fmt: skip
    assert pair.corrupted is not None
    own = path_patching(model, pair.ids, pair.corrupted, itself=True, **options)
    assert [one.effect for one in own] == [0.0] * 30
    assert any(one.effect for one in path_patching(model, pair.ids, pair.corrupted, **options))


def test_a_receiver_before_the_sender_gets_nothing(model: HookedModel, pair: EncodedPrompt) -> None:
    assert pair.corrupted is not None
    changed = path_patching(
        model, pair.ids, pair.corrupted, answer=pair.answer or 0,
        wrong_answer=pair.wrong_answer or 0, senders=[Edit(site="head", layer=5, head=0)],
        receivers=[Edit(site="k", layer=2, head=0)],
    )  # fmt: skip
    assert [one.effect for one in changed] == [0.0]


@pytest.mark.parametrize("family", ["gemma3n", "deepseek_v41"])
def test_a_stream_that_is_no_sum_is_refused(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Freezing attention and MLP would not leave it alone; nothing runs before this is said."""
    model = build(family)
    monkeypatch.setattr(HookedModel, "run_with_cache", None)
    ids, others = TOKENS.tolist()
    with pytest.raises(ModelError, match=r"has no paths to patch: block 0: .* is no sum of"):
        patched(model, ids, others, senders=[Edit(site="mlp_out", layer=0)])
    streams = replace(tiny("llama").anatomy, stream_axis=0)
    monkeypatch.setattr(HookedModel, "anatomy", streams)
    with pytest.raises(ModelError, match="several residual streams"):
        require_sum(model)


def test_small_budgets_give_the_same(model: HookedModel, pair: EncodedPrompt) -> None:
    options: Any = {"senders": every_sender(model), "receivers": [Edit(site="k", layer=2, head=0)]}
    small, large = (
        patched(model, pair.ids, pair.corrupted, memory=memory << 20, **options)
        for memory in (2, 512)
    )
    assert small == {sender: pytest.approx(large[sender], abs=1e-3) for sender in small}


def test_what_makes_no_path_is_refused(model: HookedModel, pair: EncodedPrompt) -> None:
    with pytest.raises(PromptError, match="they have 15 and 3 tokens"):
        patched(model, pair.ids, [1, 2, 3], senders=every_sender(model))
    with pytest.raises(PromptError, match="same logit difference"):
        patched(model, pair.ids, pair.ids, senders=every_sender(model))
    with pytest.raises(ValueError, match="a sender is a head or mlp_out"):
        patched(model, pair.ids, pair.ids, senders=[Edit(site="q", layer=0)])
    with pytest.raises(ValueError, match="a receiver is q, k or v"):
        patched(
            model, pair.ids, pair.ids, senders=every_sender(model),
            receivers=[Edit(site="head", layer=0)],
        )  # fmt: skip
