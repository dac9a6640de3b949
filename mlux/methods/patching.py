"""Activation patching: where in the model the difference between two prompts is decided.

One prompt runs, and one activation at a time is replaced by what it is in the run of another prompt
of as many tokens. Denoising runs the corrupted prompt with activations of the clean one and finds
what suffices; noising runs the clean prompt with activations of the corrupted one and finds what is
necessary. The effect is normalised so that 0 is the run that is patched and 1 the one that the
patch comes from:

    effect = (patched - base) / (source - base)

where each stands for logit(answer) - logit(wrong answer) at the last position of that run. Source:
Meng et al. (2022), "Locating and editing factual associations in GPT"; directions and metrics after
Zhang & Nanda (2024), "Towards best practices of activation patching in language models".
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.arrays import numbers
from mlux.engine.trials import MEMORY
from mlux.errors import ParameterError, PromptError
from mlux.methods.baseline import require_difference
from mlux.methods.edits import Edit, Row, SiteName, every_edit
from mlux.methods.scores import answer_logprob, kl_divergence, logit_diff, scored_logits
from mlux.methods.sweeps import sweep_edits
from mlux.steps import Arrays, Steps

__all__ = [
    "Direction",
    "PatchEffect",
    "PatchingResult",
    "activation_patching",
    "effects_of_heads",
    "elsewhere",
    "every_edit",
    "every_head",
    "named_heads",
    "random_sets",
    "require_heads",
    "strongest",
    "together",
]  # fmt: skip

Direction = Literal["denoising", "noising"]
Head = tuple[int, int]
"""(layer, head)."""


class PatchEffect(NamedTuple):
    """What one patch does.

    Attributes:
        row: The edits.
        logit_diff: logit(answer) - logit(wrong answer) with them.
        effect: Normalised: 0 is the run that is patched, 1 the one that the patch comes from.
        probability: The answer's.
        kl_to_clean: KL(clean prediction ‖ patched prediction) in nats.
    """

    row: Row
    logit_diff: float
    effect: float
    probability: float
    kl_to_clean: float


@dataclass(frozen=True, kw_only=True)
class PatchingResult:
    """The effect of every patch, and the two runs it lies between.

    Attributes:
        effects: Of every patch.
        clean: The clean run's logit difference.
        corrupted: The corrupted run's logit difference.
    """

    effects: tuple[PatchEffect, ...]
    clean: float
    corrupted: float


def activation_patching(
    model: HookedModel,
    clean: Sequence[int],
    corrupted: Sequence[int],
    *,
    answer: int,
    wrong_answer: int,
    edits: Sequence[Row],
    direction: Direction = "denoising",
    itself: bool = False,
    memory: int = MEMORY,
) -> PatchingResult:
    """Patches activations of one run into the other, one row of edits at a time.

    Args:
        model: The model.
        clean: Token ids of the clean prompt.
        corrupted: Token ids of the corrupted prompt, as many.
        answer: The clean prompt's answer token.
        wrong_answer: The corrupted prompt's answer token.
        edits: What to patch, one row each.
        direction: `denoising` patches the corrupted run, `noising` the clean one.
        itself: Patch the run into itself: a control whose effects are exactly 0.
        memory: Bytes that it may hold at once beside the model.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> clean = model.tokenize("mary and john met , john gave a book to")
        >>> corrupted = model.tokenize("mary and john met , mary gave a book to")
        >>> mary, john = clean[1], clean[3]
        >>> edits = [Edit(site="resid_pre", layer=3)]
        >>> result = activation_patching(
        ...     model, clean, corrupted, answer=mary, wrong_answer=john, edits=edits
        ... )
        >>> result.effects[0].effect  # the whole residual stream is everything
        1.0

    Raises:
        PromptError: If the prompts differ in length, or the model does not tell them apart.
        ParameterError: If one row alone needs more memory.
    """
    if len(clean) != len(corrupted):
        raise PromptError(
            f"Patching needs two prompts of equal length; the clean one has {len(clean)} tokens "
            f"and the corrupted one {len(corrupted)}."
        )
    ends = [_last_logits(model, ids) for ids in (clean, corrupted)]
    at_clean, at_corrupted = (numbers(logit_diff(x, answer, wrong_answer))[0] for x in ends)
    require_difference(at_clean, at_corrupted)
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    span = at_clean - at_corrupted if direction == "denoising" else at_corrupted - at_clean
    effects: list[PatchEffect] = []
    given = base if itself else source
    for part in sweep_edits(model, base, edits, source=given, memory=memory):
        assert part.source is not None
        low, patched = (
            numbers(logit_diff(x, answer, wrong_answer)) for x in (part.base, part.logits)
        )
        high = (
            [value + span for value in low]
            if itself
            else numbers(logit_diff(part.source, answer, wrong_answer))
        )
        probabilities = numbers(mx.exp(answer_logprob(part.logits, answer)))
        divergences = numbers(kl_divergence(ends[0][0], part.logits))
        effects += [
            PatchEffect(
                row,
                patched[i],
                (patched[i] - low[i]) / (high[i] - low[i]),
                probabilities[i],
                divergences[i],
            )
            for i, row in enumerate(part.rows)
        ]
    return PatchingResult(effects=tuple(effects), clean=at_clean, corrupted=at_corrupted)


def _last_logits(model: HookedModel, ids: Sequence[int]) -> mx.array:
    return scored_logits(model, mx.array([list(ids)]), mx.array([len(ids) - 1]))


def elsewhere(
    model: HookedModel, edits: Sequence[Edit], seq: int, generator: random.Random
) -> list[Edit]:
    """The same edits with what the source holds at a random other place: a control.

    A position gets the activation of another position, and a head that is patched everywhere that
    of another head. So does a pattern at one position, since that of a later position would look
    ahead. It disturbs as much, but brings nothing that belongs there.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> edit = Edit(site="resid_pre", layer=2, position=1)
        >>> elsewhere(model, [edit], 2, random.Random(0))[0].source_position
        0
    """
    moved = []
    for edit in edits:
        if edit.position is not None and edit.site != "pattern" and seq > 1:
            other = generator.choice([place for place in range(seq) if place != edit.position])
            moved.append(replace(edit, source_position=other))
        elif edit.head is not None and model.anatomy.blocks[edit.layer].n_heads > 1:
            heads = range(model.anatomy.blocks[edit.layer].n_heads)
            other = generator.choice([head for head in heads if head != edit.head])
            moved.append(replace(edit, source_head=other))
    return moved


def strongest(effects: Mapping[Head, Sequence[float]], count: int) -> list[Head]:
    """The heads of the largest mean effect, the largest first.

    Args:
        effects: Head → its effect on each of some prompts.
        count: How many.

    Example:
        >>> strongest({(0, 1): [0.1, 0.2], (3, 0): [0.9, 0.5]}, 1)
        [(3, 0)]
    """
    return sorted(effects, key=lambda head: -sum(effects[head]) / len(effects[head]))[:count]


def effects_of_heads(
    steps: Steps, number: int, search: Callable[[], Iterable[tuple[Head, float]]]
) -> list[tuple[Head, float]]:
    """The effect of each head on one prompt, as a step of a search for the strongest.

    Args:
        steps: What keeps it.
        number: The prompt's place in the run.
        search: Computes the effects.

    Example:
        >>> from mlux.steps import UNKEPT
        >>> effects_of_heads(UNKEPT, 0, lambda: [((2, 1), 0.5)])
        [((2, 1), 0.5)]
    """

    def learn() -> Arrays:
        heads, effects = zip(*search(), strict=True)
        return {"head": heads, "effect": effects}

    def said(found: Arrays) -> str:
        effect, (layer, head) = max(
            zip(map(float, found["effect"]), map(tuple, found["head"]), strict=True)
        )
        return f"heads on prompt {number}: the largest effect is {effect:.3g}, of {layer}.{head}"

    found = steps.once(f"head_effects.{number}", learn, said)
    return [
        ((int(layer), int(head)), float(effect))
        for (layer, head), effect in zip(found["head"], found["effect"], strict=True)
    ]


def every_head(model: HookedModel) -> list[Head]:
    """(layer, head) of every head that the model has.

    Example:
        >>> from mlux import HookedModel
        >>> len(every_head(HookedModel.from_pretrained("demo")))
        24
    """
    blocks = enumerate(model.anatomy.blocks)
    return [(layer, head) for layer, block in blocks for head in range(block.n_heads)]


def named_heads(names: Sequence[str]) -> list[Head]:
    """Heads from their names.

    Example:
        >>> named_heads(["2.0", "2.3"])
        [(2, 0), (2, 3)]

    Raises:
        ValueError: If a name is not `layer.head`.
    """
    try:
        return [(int(layer), int(head)) for layer, head in (name.split(".") for name in names)]
    except ValueError as error:
        raise ValueError(
            f"heads is {','.join(names)}; expected layer.head, as in 2.0,2.3"
        ) from error


def require_heads(model: HookedModel, heads: Sequence[Head]) -> None:
    """Stops what asks for heads that a model lacks.

    Example:
        >>> from mlux import HookedModel
        >>> require_heads(HookedModel.from_pretrained("demo"), [(2, 0)])

    Raises:
        ParameterError: If there is no such head.
    """
    known = every_head(model)
    for layer, head in heads:
        if (layer, head) not in known:
            raise ParameterError(f"This model has no head {layer}.{head}.")


def random_sets(
    model: HookedModel, like: Sequence[Head], count: int, generator: random.Random
) -> list[list[Head]]:
    """Sets of as many random heads, none of them among the given ones: a control.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> [len(heads) for heads in random_sets(model, [(2, 0), (2, 3)], 3, random.Random(0))]
        [2, 2, 2]

    Raises:
        ParameterError: If the model has not as many others.
    """
    known, chosen = every_head(model), set(like)
    others = [head for head in known if head not in chosen]
    if len(others) < len(like):
        raise ParameterError(
            f"{len(like)} of {len(known)} heads are chosen, so there are not as many others to be "
            f"their control. Choose at most {len(known) // 2}."
        )
    return [generator.sample(others, len(like)) for _ in range(count)]


def together(heads: Iterable[Head], site: SiteName = "head") -> Row:
    """One row that edits all of these heads.

    Example:
        >>> len(together([(2, 0), (2, 3)]))
        2
    """
    return tuple(Edit(site=site, layer=layer, head=head) for layer, head in heads)
