"""Function vectors and the lens, as far as the model card reports them.

Function vectors after Todd et al. 2024 and Hendel et al. 2023, in their simplest form: mean
residual at the arrow of few-shot prompts, minus that of the same queries without examples.
"""

import random

import numpy as np
import numpy.typing as npt

from tools.demo_model import items
from tools.demo_model.items import Item
from tools.demo_model.reader import Floats, Reader
from tools.demo_model.world import World

LAYER = 3


def function_vectors(
    world: World, reader: Reader, rng: random.Random, layer: int = LAYER
) -> dict[str, tuple[float, float]]:
    """For each relation, zero-shot accuracy on held-out queries without and with its vector."""
    found = {}
    for name in world.relations:
        prompts = _prompts_of(world, rng, name)
        queries = [
            Item(text=f"{x} →", answer=y) for x, y in world.few_shot_pairs(name, held_out=True)
        ]
        rows = [reader.ids(item) for item in queries]
        few = reader.last([reader.ids(item) for item in prompts], layer)
        none = reader.last([reader.ids(item) for item in items.zero_shot(prompts)], layer)
        vector = few.mean(axis=0) - none.mean(axis=0)
        steered = np.asarray(reader.unembed(reader.last(rows, add=(layer, vector))))
        right = float(reader.correct(queries, steered).mean())
        found[name] = (reader.accuracy(queries), right)
    return found


def _prompts_of(world: World, rng: random.Random, name: str, count: int = 40) -> list[Item]:
    """Few-shot prompts with queries that few-shot text does contain."""
    pairs = world.few_shot_pairs(name, held_out=False)
    prompts = []
    for _ in range(count):
        *shown, (query, answer) = rng.sample(pairs, items.EXAMPLES + 1)
        text = "".join(f"{x} → {y}\n" for x, y in shown) + f"{query} →"
        prompts.append(Item(text=text, answer=answer, label=name))
    return prompts


def ranks(logits: Floats, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rank of each row's token, 0 for the most probable."""
    own = np.take_along_axis(logits, tokens[:, None], axis=-1)
    ranked: npt.NDArray[np.int64] = (logits > own).sum(-1)
    return ranked


def median_ranks(reader: Reader, prompts: list[Item]) -> list[float]:
    """Median rank of the answer by the lens after each block."""
    answers = reader.answers(prompts)
    return [
        float(np.median(ranks(reader.logits(prompts, layer=layer), answers)))
        for layer in range(len(reader.layers))
    ]
