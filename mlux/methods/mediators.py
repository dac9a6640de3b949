"""The effects of many mediators at once; definitions and source in `mediation`."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import mlx.core as mx

from mlux.engine import HookedModel, sites
from mlux.engine.arrays import numbers
from mlux.engine.trials import MEMORY
from mlux.methods.edits import Row
from mlux.methods.neurons import neurons as all_neurons
from mlux.methods.neurons import replacing_neurons
from mlux.methods.scores import logit_diff
from mlux.methods.sweeps import base_pass, sweep_edits


class Mediated(NamedTuple):
    """The two effects of one mediator, in logits.

    Attributes:
        place: The edits of a sweep, or (layer, number of the group) of neurons.
        indirect: y(target, s) - y(target, t).
        direct: y(source, t) - y(target, t).
    """

    place: Row | tuple[int, int]
    indirect: float
    direct: float


def mediated_effects(
    model: HookedModel,
    source: Sequence[int],
    target: Sequence[int],
    edits: Sequence[Row],
    *,
    answer: int,
    wrong_answer: int,
    memory: int = MEMORY,
) -> list[Mediated]:
    """Indirect and direct effect of many mediators: one sweep in each direction.

    Args:
        model: The model.
        source: Token ids of the source prompt.
        target: Token ids of the target prompt, as many.
        edits: The mediators, one row each.
        answer: The token that the source prompt favours.
        wrong_answer: The token that the target prompt favours.
        memory: Bytes that a sweep may hold at once beside the model.

    Example:
        >>> from mlux import HookedModel
        >>> from mlux.methods.edits import Edit
        >>> model = HookedModel.from_pretrained("demo")
        >>> source = model.tokenize("the capital of france is")
        >>> target = model.tokenize("the capital of peru is")
        >>> paris, lima = (model.tokenize(word, add_bos=False)[0] for word in ("paris", "lima"))
        >>> edits = [Edit(site="resid_post", layer=5)]
        >>> (found,) = mediated_effects(
        ...     model, source, target, edits, answer=paris, wrong_answer=lima
        ... )
        >>> found.indirect > 10 and abs(found.direct) < 1e-3  # after it there is nothing else
        True

    Raises:
        PromptError: If the prompts differ in length.
        ParameterError: If one row alone needs more memory.
    """
    indirect: dict[Row, float] = {}
    direct: dict[Row, float] = {}
    for part in sweep_edits(model, target, edits, source=source, memory=memory):
        before, after = (logit_diff(x, answer, wrong_answer) for x in (part.base, part.logits))
        indirect |= dict(zip(part.rows, numbers(after - before), strict=True))
    for part in sweep_edits(model, source, edits, source=target, memory=memory):
        assert part.source is not None
        before, after = (logit_diff(x, answer, wrong_answer) for x in (part.source, part.logits))
        direct |= dict(zip(part.rows, numbers(after - before), strict=True))
    return [Mediated(row, indirect[row], direct[row]) for row in edits]


def neuron_effects(
    model: HookedModel,
    source: Sequence[int],
    target: Sequence[int],
    groups: Sequence[Sequence[int]],
    *,
    answer: int,
    wrong_answer: int,
) -> list[Mediated]:
    """Indirect and direct effect of groups of neurons in every layer, at all positions.

    Args:
        model: The model.
        source: Token ids of the source prompt.
        target: Token ids of the target prompt, as many.
        groups: Numbers of neurons, the same in every layer.
        answer: The token that the source prompt favours.
        wrong_answer: The token that the target prompt favours.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> source = model.tokenize("the capital of france is")
        >>> target = model.tokenize("the capital of peru is")
        >>> halves = [range(192), range(192, 384)]
        >>> len(neuron_effects(model, source, target, halves, answer=5, wrong_answer=6))
        12

    Raises:
        HookError: If a layer has no neurons to speak of.
    """
    layers = range(len(model.layers))
    at = [
        base_pass(model, ids, rows=len(groups), position=len(ids) - 1) for ids in (source, target)
    ]
    held = [all_neurons(model, ids, layers) for ids in (source, target)]

    def exchanged(into: int, other: int) -> Iterator[mx.array]:
        """The logit differences of a run with each group of each layer from the other."""
        for layer in layers:
            logits, _ = model.run_from(
                layer,
                at[into].cache[sites.resid_pre(layer)],
                pre_hooks=replacing_neurons(model, layer, groups, held[other]),
                positions=mx.full((len(groups),), at[into].tokens.shape[1] - 1, dtype=mx.int32),
                tokens=at[into].tokens,
            )
            yield logit_diff(logits[:, 0], answer, wrong_answer) - untouched

    untouched = logit_diff(at[1].logits, answer, wrong_answer)
    found = zip(layers, exchanged(1, 0), exchanged(0, 1), strict=True)
    return [
        Mediated((layer, group), *effects)
        for layer, indirect, direct in found
        for group, effects in enumerate(zip(numbers(indirect), numbers(direct), strict=True))
    ]
