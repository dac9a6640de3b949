"""Steering and refusal on other architectures: untrained, so only what must hold of any model."""

import importlib
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map_with_path

from mlux import params, prompts, registry
from mlux.engine import HookedModel
from mlux.engine.trials import EncodedPrompt
from mlux.errors import ParameterError
from mlux.methods.refusal import candidate_directions
from mlux.plan import Prepared, assemble
from mlux.results import Generation, Values

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
import architectures
import tiny


def with_words(name: str) -> HookedModel:
    """A tiny random bfloat16 model of a family, with the built-in model's tokenizer."""
    own = tiny.CONFIGS.get(name) or architectures.STANDARD | architectures.CONFIGS[name]
    config = own | {"model_type": name, "vocab_size": 1466}
    module = importlib.import_module(f"mlx_lm.models.{name}")
    model = module.Model(module.ModelArgs.from_dict(config))
    mx.random.seed(1)
    model.update(tree_map_with_path(architectures._random, model.parameters()))
    model.set_dtype(mx.bfloat16)
    model.eval()
    return HookedModel(model, HookedModel.from_pretrained("demo").tokenizer, config=config)


def prepared(name: str, model: HookedModel, chosen: str, **options: Any) -> Prepared:
    found = registry.get(name)
    config = params.build(found.config, options, experiment=name)
    return assemble(
        found, config, model, prompts.load(chosen), seed=0, batch_size=None, memory=None
    )


def encoded_by_label(plan: Prepared) -> dict[str, list[EncodedPrompt]]:
    labels = {str(one.prompt.label) for one in plan.encoded}
    return {label: [e for e in plan.encoded if e.prompt.label == label] for label in labels}


@pytest.mark.parametrize("name", ["gemma2", "lfm2", "mamba2"])
def test_steering_runs_and_alpha_0_is_the_unsteered_text(name: str) -> None:
    model = with_words(name)
    plan = prepared("steering", model, "reviews:8", alphas=(0.0,), max_tokens=4, temperature=0.0)
    fitted = plan.fit().state
    texts, metrics = [], set()
    for number, batch in enumerate(plan.batches):
        handed = plan.prompt_batch(number, batch, fitted)
        for trial, result in plan.experiment.run(model, plan.config, handed):
            if isinstance(result, Values):
                metrics.add(result.metric)
            elif isinstance(result, Generation) and handed.condition.get("alpha") == "0":
                start = fitted.starts[fitted.number(trial)]
                alone = model.complete([list(start)], max_tokens=4, stop="rating")[0]
                texts.append(tuple(result.token_ids) == alone.token_ids)
    assert metrics == {metric.name for metric in plan.experiment.metrics}
    assert texts == [True] * 8


def test_a_block_that_cannot_see_the_difference_gives_no_candidate() -> None:
    """The convolution of this hybrid's block 0 reaches three tokens back, the verb is farther."""
    model = with_words("lfm2")
    plan = prepared("refusal_direction", model, "requests:24")
    rows = {
        label: [list(one.ids) for one in of_label]
        for label, of_label in encoded_by_label(plan).items()
    }
    found = candidate_directions(model, rows["harmful"], rows["harmless"], [0, 1, 2], [-1])
    assert sorted(found) == [(1, -1), (2, -1)]
    with pytest.raises(ParameterError, match="The model refuses none of 10 prompts"):
        plan.fit()  # untrained
