"""Vectors of tasks that are never tried on the prompts they were made from.

Every task's prompts are dealt to two halves. What one half teaches (which heads, which vector) is
used on the other half, so every prompt serves both and every number is held out.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.arrays import numbers
from mlux.engine.batching import pad
from mlux.engine.trials import MEMORY
from mlux.errors import PromptError
from mlux.methods.ablation import Head
from mlux.methods.function_vectors import function_vector, indirect_effects
from mlux.methods.head_outputs import head_outputs
from mlux.steps import UNKEPT, Arrays, Steps

HALVES = (0, 1)
BATCH = 16
"""Prompts at once, where memory allows."""

Effects = dict[int, list[list[float]]]
"""Layer → for each prompt the effect of each head."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What every head holds and adds at the last token of each prompt.

    Attributes:
        z: Layer → [n_prompts, n_heads, d_head].
        added: Layer → [n_prompts, n_heads, d_model] float32.
    """

    z: Mapping[int, mx.array]
    added: Mapping[int, mx.array]


def outputs_at_last(model: HookedModel, rows: Sequence[Sequence[int]]) -> Outputs:
    """What every head holds and adds at the last token of each row of token ids.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> outputs_at_last(model, [model.tokenize("hot →"), model.tokenize("big →")]).z[3].shape
        (2, 4, 32)
    """
    z: dict[int, list[mx.array]] = {}
    added: dict[int, list[mx.array]] = {}
    for start in range(0, len(rows), BATCH):
        batch = pad(rows[start : start + BATCH])
        for one in head_outputs(model, batch.tokens, batch.last)[0]:
            z.setdefault(one.layer, []).append(one.z)
            added.setdefault(one.layer, []).append(one.added)
    return Outputs(
        z={layer: mx.concatenate(parts) for layer, parts in z.items()},
        added={layer: mx.concatenate(parts) for layer, parts in added.items()},
    )


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Which prompts belong to which half of which task.

    Attributes:
        members: (task, half) → the numbers of its prompts.
    """

    members: Mapping[tuple[str, int], Sequence[int]]

    @classmethod
    def of(cls, tasks: Sequence[str]) -> "Halves":
        """Deals the prompts of each task in turns.

        Args:
            tasks: The task of each prompt.

        Raises:
            PromptError: If a task has fewer than four prompts, two for each half.
        """
        by_task: dict[str, list[int]] = {}
        for number, task in enumerate(tasks):
            by_task.setdefault(task, []).append(number)
        for task, numbers_ in by_task.items():
            if len(numbers_) < 2 * len(HALVES):
                raise PromptError(
                    f"Function vectors need at least {2 * len(HALVES)} prompts of each task (its "
                    f"label), so that none is tried on what it was made from; {task!r} has "
                    f"{len(numbers_)}."
                )
        pairs = ((task, half) for task in by_task for half in HALVES)
        return cls(members={(task, half): by_task[task][half::2] for task, half in pairs})

    def effects(
        self,
        model: HookedModel,
        corrupted: Sequence[Sequence[int]],
        answers: Sequence[int],
        clean: Outputs,
        *,
        memory: int = MEMORY,
        steps: Steps = UNKEPT,
    ) -> Effects:
        """The indirect effect of every head on every corrupted prompt.

        The mean output that is put into a prompt is that of the other clean prompts of its half.

        Args:
            model: The model.
            corrupted: Token ids of each corrupted prompt.
            answers: The answer's token for each.
            clean: What the heads hold in the clean prompts.
            memory: Bytes for what is kept at once.
            steps: What keeps the effects in each prompt.
        """

        def learn(number: int, others: Sequence[int]) -> Arrays:
            chosen = mx.array(list(others))
            means = {layer: _mean(z[chosen]) for layer, z in clean.z.items()}
            effects = indirect_effects(
                model, corrupted[number], means, answers[number], memory=memory
            )
            return {str(layer): values for layer, values in effects.items()}

        def said(number: int, found: Arrays) -> str:
            largest = max(float(value) for values in found.values() for value in values)
            return f"indirect effects in prompt {number}: the largest is {largest:.3g}"

        found: Effects = {layer: [[] for _ in corrupted] for layer in clean.z}
        for members in self.members.values():
            for number in members:
                others = [other for other in members if other != number]
                effects = steps.once(
                    f"indirect_effects.{number}",
                    partial(learn, number, others),
                    partial(said, number),
                )
                for layer, values in effects.items():
                    found[int(layer)][number] = list(map(float, values))
        return found

    def average(
        self, effects: Effects, half: int, solved: Sequence[bool] = ()
    ) -> dict[int, list[float]]:
        """The average indirect effect of each head over the prompts of one half, by layer.

        Tasks count equally, however many prompts they have.

        Args:
            effects: Of every prompt.
            half: The half.
            solved: Whether each prompt counts; without a prompt that does, all of the half do.
        """
        every = [list(members) for (_, of), members in self.members.items() if of == half]
        counted = [[number for number in of_task if solved[number]] for of_task in every if solved]
        of_tasks = [mx.array(of_task) for of_task in counted if of_task]
        of_tasks = of_tasks or [mx.array(of_task) for of_task in every]
        averages = {}
        for layer, values in effects.items():
            rows = mx.array(values)  # [n_prompts, n_heads]
            by_task = mx.stack([mx.mean(rows[members], axis=0) for members in of_tasks])
            averages[layer] = numbers(mx.mean(by_task, axis=0))
        return averages

    def vectors(
        self, outputs: Outputs, heads: Sequence[Sequence[Head]]
    ) -> dict[tuple[str, int], mx.array]:
        """(task, half) → the function vector [d_model] that its prompts make.

        Args:
            outputs: What the heads add in each prompt.
            heads: The heads of each half's vectors.
        """
        return {
            (task, half): function_vector(
                {
                    layer: _mean(rows[mx.array(list(members))])
                    for layer, rows in outputs.added.items()
                },
                heads[half],
            )
            for (task, half), members in self.members.items()
        }

    def for_others(self, vectors: Mapping[tuple[str, int], mx.array]) -> list[mx.array | None]:
        """For each prompt the vector that the other half of its task made; None without one."""
        chosen: dict[int, mx.array | None] = {}
        for (task, half), members in self.members.items():
            chosen |= dict.fromkeys(members, vectors.get((task, 1 - half)))
        return [chosen[number] for number in sorted(chosen)]


def other_heads(model: HookedModel, heads: Sequence[Head], seed: str) -> list[Head]:
    """As many heads, drawn at random from all others.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> (2, 0) in other_heads(model, [(2, 0)] * 23, seed="0")
        False
    """
    blocks = enumerate(model.anatomy.blocks)
    every = [(layer, head) for layer, block in blocks for head in range(block.n_heads)]
    others = [place for place in every if place not in heads]
    return random.Random(seed).sample(others, min(len(heads), len(others)))


def _mean(rows: mx.array) -> mx.array:
    # float32: a mean of many half-precision rows would lose the last digits of each.
    return mx.mean(rows.astype(mx.float32), axis=0)
