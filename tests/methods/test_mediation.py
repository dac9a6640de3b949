"""Mediation against its definition: two runs, and what the mediator holds exchanged."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest
from mlux.experiments.causal_mediation import _groups

import mlux
from mlux.engine import HookedModel
from mlux.engine.trials import PromptBatch
from mlux.errors import HookError, ParameterError
from mlux.methods.edits import Edit, SiteName, path_of
from mlux.methods.mediators import mediated_effects, neuron_effects
from mlux.methods.neurons import last_map, layers_with_neurons, neurons
from mlux.methods.patching import every_edit

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from architectures import build  # one tiny model an architecture
from tiny import TOKENS, tiny  # the tiny models of the engine's tests

SOURCE, TARGET = TOKENS.tolist()
ANSWERS: Any = {"answer": 5, "wrong_answer": 9}


def y(model: HookedModel, ids: Any, **hooks: Any) -> float:
    logits = model.run_with_hooks([ids], **hooks)[0, -1]
    return float((logits[5] - logits[9]).item())


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("site", ["head", "attn_out", "mlp_out"])
def test_effects_equal_two_runs_with_the_mediator_exchanged(family: str, site: SiteName) -> None:
    model = tiny(family)
    edits = every_edit(model, site, len(SOURCE), by_position=False)[::3]
    found = mediated_effects(model, SOURCE, TARGET, edits, **ANSWERS)
    paths = [path_of(site, layer) for layer in range(3)]
    _, cache = model.run_with_cache(TOKENS, hooks=paths)
    low = y(model, TARGET)
    for edit, one in zip(edits, found, strict=True):

        def put(row: int, e: Any = edit) -> Any:
            def hook(inputs: Any, output: mx.array, wrapper: Any) -> mx.array:
                if e.head is None:
                    return cache[e.path][row : row + 1]
                output = output[...]
                output[:, e.head] = cache[e.path][row, e.head]
                return output

            return [(e.path, hook)]

        assert one.indirect == pytest.approx(y(model, TARGET, hooks=put(0)) - low, abs=1e-3)
        assert one.direct == pytest.approx(y(model, SOURCE, hooks=put(1)) - low, abs=1e-3)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox"])
def test_groups_of_neurons(family: str) -> None:
    model = tiny(family)
    groups = [range(10), range(10, 48)]
    found = neuron_effects(model, SOURCE, TARGET, dict.fromkeys(range(3), groups), **ANSWERS)
    assert [one.place for one in found] == [(layer, i) for layer in range(3) for i in (0, 1)]
    held = neurons(model, SOURCE, range(3))
    low = y(model, TARGET)
    for one in found:
        layer, number = one.place
        group = list(groups[number])  # type: ignore[index] # a number

        def put(
            args: Any, kwargs: Any, wrapper: Any, layer: Any = layer, group: Any = group
        ) -> Any:
            changed = args[0][...]
            changed[..., group] = held[layer][..., group]
            return (changed, *args[1:]), kwargs

        hooks = [(last_map(model, layer), put)]  # type: ignore[arg-type] # a layer
        assert one.indirect == pytest.approx(y(model, TARGET, pre_hooks=hooks) - low, abs=1e-3)


def test_all_neurons_together_are_the_mlp() -> None:
    model = HookedModel.from_pretrained("demo")
    source, target = (model.tokenize(f"the capital of {name} is") for name in ("france", "peru"))
    ours = neuron_effects(model, source, target, {i: [range(384)] for i in range(6)}, **ANSWERS)
    edits = every_edit(model, "mlp_out", len(source), by_position=False)
    whole = mediated_effects(model, source, target, edits, **ANSWERS)
    for one, other in zip(ours, whole, strict=True):
        assert one.indirect == pytest.approx(other.indirect, abs=1e-2)
        assert one.direct == pytest.approx(other.direct, abs=1e-2)


def test_experts_have_no_neurons_to_speak_of() -> None:
    with pytest.raises(HookError, match="Block 0 has 0 maps"):
        last_map(tiny("mixtral"), 0)
    with pytest.raises(HookError, match="No block of this model has neurons"):
        layers_with_neurons(tiny("mixtral"))


@pytest.mark.parametrize("family", ["openelm", "jamba", "nemotron_h"])
def test_the_parts_of_each_block_are_its_own(family: str) -> None:
    """Blocks differ in width, or have none; all parts of a block together are its MLP."""
    model = build(family)
    layers = layers_with_neurons(model)
    widths = {layer: x.shape[-1] for layer, x in neurons(model, SOURCE, layers).items()}
    if family == "openelm":
        assert widths == {0: 32, 1: 48, 2: 64}
    else:
        assert 0 < len(layers) < len(model.layers)
    seen: dict[int, set[int]] = {layer: set() for layer in layers}
    for number in (1, 2, 3):
        batch = PromptBatch([], {"mediator": "neurons", "group": f"{number}/3"})
        trial: Any = SimpleNamespace(number=0, encoded=SimpleNamespace(ids=SOURCE))
        for layer, (part,) in _groups(model, batch, trial).items():
            assert not seen[layer] & set(part)
            seen[layer] |= set(part)
    assert seen == {layer: set(range(width)) for layer, width in widths.items()}
    groups = {layer: [list(numbers)] for layer, numbers in seen.items()}
    ours = neuron_effects(model, SOURCE, TARGET, groups, **ANSWERS)
    edits = [Edit(site="mlp_out", layer=layer) for layer in layers]
    whole = mediated_effects(model, SOURCE, TARGET, edits, **ANSWERS)
    for one, other in zip(ours, whole, strict=True):
        assert one.indirect == pytest.approx(other.indirect, abs=1e-3)
        assert one.direct == pytest.approx(other.direct, abs=1e-3)
    assert any(abs(one.indirect) > 1e-2 for one in ours)


def test_the_function_of_two_texts_takes_every_mediator() -> None:
    model = HookedModel.from_pretrained("demo")
    pair: Any = {
        "source_prompt": "the capital of france is",
        "target_prompt": "the capital of peru is",
    }
    words: Any = {"answer": "paris", "wrong_answer": "lima"}
    options: list[Any] = [
        {"mediator": "attn_out"}, {"mediator": "mlp_out"}, {"mediator": "head", "head": 1},
        {"mediator": "neurons", "neurons": range(384)},
    ]  # fmt: skip
    found = [
        mlux.causal_mediation(model, patch_layer=5, **pair, **words, **option) for option in options
    ]
    assert found[3].indirect_effect == pytest.approx(found[1].indirect_effect, abs=1e-2)
    assert len({round(one.indirect_effect, 4) for one in found[:3]}) == 3
    last = mlux.causal_mediation(model, patch_layer=5, **pair, **words)
    assert last.direct_effect == pytest.approx(0, abs=1e-3)  # after it there is nothing else
    early = mlux.causal_mediation(model, patch_layer=0, **pair, **words)
    assert early.direct_effect == pytest.approx(early.total_effect, rel=0.05)
    for wrong in ({"mediator": "head"}, {"head": 1}, {"mediator": "neurons"}, {"neurons": [1]}):
        with pytest.raises(ParameterError, match="no other"):
            mlux.causal_mediation(model, patch_layer=5, **pair, **words, **wrong)
