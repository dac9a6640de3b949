"""The effects of many mediators at once; definitions and source in `mediation`."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import mlx.core as mx

from mlux.engine import HookedModel, sites
from mlux.engine.arrays import numbers
from mlux.engine.lanes import side_by_side
from mlux.engine.trials import MEMORY
from mlux.methods.budget import batches_in_budget
from mlux.methods.edits import Row
from mlux.methods.neurons import neurons as all_neurons
from mlux.methods.neurons import replacing_neurons
from mlux.methods.scores import logit_diff
from mlux.methods.sweeps import BasePass, Kept, base_passes, inputs_of, sweep_edits

_Ends = tuple[list[BasePass], list[dict[int, mx.array]]]
"""The runs of source and target, and the neurons of both by layer."""


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
    groups: Mapping[int, Sequence[Sequence[int]]],
    *,
    answer: int,
    wrong_answer: int,
    memory: int = MEMORY,
) -> list[Mediated]:
    """Indirect and direct effect of groups of neurons of some layers, at all positions.

    Args:
        model: The model.
        source: Token ids of the source prompt.
        target: Token ids of the target prompt, as many.
        groups: Layer → groups of numbers of its neurons; layers may differ in width.
        answer: The token that the source prompt favours.
        wrong_answer: The token that the target prompt favours.
        memory: Bytes that it may hold at once beside the model.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> source = model.tokenize("the capital of france is")
        >>> target = model.tokenize("the capital of peru is")
        >>> halves = dict.fromkeys(range(6), [range(192), range(192, 384)])
        >>> len(neuron_effects(model, source, target, halves, answer=5, wrong_answer=6))
        12

    Raises:
        HookError: If a layer has no neurons to speak of.
        ParameterError: If one row alone needs more memory.
    """
    layers = sorted(groups)
    prompts = [Kept(ids=ids, paths=inputs_of(layers)) for ids in (source, target)]

    def passes(rows: int, **shares: int) -> _Ends:
        """The runs of both prompts, and their neurons."""
        runs = base_passes(model, prompts, rows=rows, position=len(source) - 1, **shares)
        return runs, [all_neurons(model, one.ids, layers) for one in prompts]

    def exchanged(ends: _Ends, into: int, layer: int, some: Sequence[Sequence[int]]) -> mx.array:
        """The last logits of one run with each of some groups of a layer from the other, lazy."""
        runs, held = ends
        base = runs[into]
        rows, seq = base.tokens.shape
        logits, _ = model.run_from(
            layer,
            base.cache[sites.resid_pre(layer)],
            pre_hooks=replacing_neurons(
                model, layer, [*some, *[()] * (rows - len(some))], held[1 - into]
            ),
            positions=mx.full((rows,), seq - 1, dtype=mx.int32),
            tokens=base.tokens,
        )
        return logits[:, 0]

    def trial(rows: int) -> object:
        ends = passes(rows)
        logits = exchanged(ends, 1, layers[0], list(groups[layers[0]][:1]) * rows)
        mx.eval(logits)
        return ends, logits

    rows, lanes = batches_in_budget(
        model,
        trial,
        key=("neurons", len(source), *layers),
        budget=memory,
        groups=[len(groups[layer]) for layer in layers for _ in (1, 0)],
        seq=len(source),
    )
    batches = [
        (into, layer, start)
        for layer in layers
        for start in range(0, len(groups[layer]), rows)
        for into in (1, 0)
    ]
    effects: dict[tuple[int, int, int], float] = {}
    ends = passes(rows, lanes=lanes, memory=memory)
    untouched = logit_diff(ends[0][1].logits, answer, wrong_answer)
    builders = (
        partial(exchanged, ends, into, layer, groups[layer][start : start + rows])
        for into, layer, start in batches
    )
    computed = side_by_side(builders, lanes, top=ends[0][1].top)
    for (into, layer, start), logits in zip(batches, computed, strict=True):
        found = numbers(logit_diff(logits, answer, wrong_answer) - untouched)
        for row in range(min(rows, len(groups[layer]) - start)):
            effects[into, layer, start + row] = found[row]
    return [
        Mediated((layer, group), effects[1, layer, group], effects[0, layer, group])
        for layer in layers
        for group in range(len(groups[layer]))
    ]
