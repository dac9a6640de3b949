"""Entity binding: does an attribute belong to an entity by what a vector holds, or by its place?

A context binds two entities to two attributes, "helen lives in angola . diana lives in ghana .",
and a question asks for the attribute of one. The activations of the two entities after some block
(or those of the two attributes) are exchanged: each is put at the other's place in the order of
introduction. If binding is still to be made from places, the answer follows the exchange; once it
is held by the vectors, it goes with them and the answer stays. Exchanged before the first block the
prompt is the one with the words exchanged, so the effect is exactly 1 there:

    effect = (exchanged − clean) / (corrupted − clean)

of logit(answer) − logit(wrong answer); corrupted is the prompt whose attributes are exchanged.
Source: Feng & Steinhardt (2023), "How do language models bind entities in context?" (position
independence, and the exchange of entities or attributes; there for all layers at once).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.spans import Span
from mlux.errors import PromptError
from mlux.methods.prompt_rows import edited_prompts
from mlux.methods.sweeps import BasePass, Edit, SiteName


@dataclass(frozen=True, kw_only=True)
class Binding:
    """Where a prompt introduces two entities and their attributes, in the order of introduction.

    Attributes:
        entities: Spans of equal length.
        attributes: Spans of equal length.
    """

    entities: tuple[Span, Span]
    attributes: tuple[Span, Span]


def find_binding(
    ids: Sequence[int], corrupted: Sequence[int], *, subject: Span, attribute: Span
) -> Binding:
    """The places of both entities and attributes, from a prompt and its exchange of attributes.

    The attributes are where the two differ. The other entity is as far from its attribute as the
    subject is from its own: both are introduced in the same words.

    Args:
        ids: The prompt.
        corrupted: The prompt with the attributes exchanged.
        subject: Where the asked entity is introduced.
        attribute: Where its attribute is.

    Example:
        >>> helen, diana, lives, angola, ghana = range(5)
        >>> ids = [helen, lives, angola, diana, lives, ghana, diana]
        >>> swapped = [helen, lives, ghana, diana, lives, angola, diana]
        >>> find_binding(ids, swapped, subject=(3, 4), attribute=(5, 6))
        Binding(entities=((0, 1), (3, 4)), attributes=((2, 3), (5, 6)))

    Raises:
        PromptError: If they do not differ in the exchange of two stretches of equal length, or
            no other entity fits.
    """
    if len(ids) != len(corrupted):
        raise PromptError(
            f"The prompt has {len(ids)} tokens and the corrupted one {len(corrupted)}; they have "
            "to differ in two exchanged attributes of equal length."
        )
    attributes = _exchanged(ids, corrupted)
    if attribute not in attributes:
        raise PromptError("The subject's attribute is not one of the two that change places.")
    other = attributes[1 - attributes.index(attribute)]
    moved = other[0] - attribute[0]
    entity = (subject[0] + moved, subject[1] + moved)
    if entity[0] < 0 or _between(ids, subject, attribute) != _between(ids, entity, other):
        raise PromptError("No second entity is introduced in the same words as the subject.")
    entities = (subject, entity) if subject < entity else (entity, subject)
    return Binding(entities=entities, attributes=attributes)


def _between(ids: Sequence[int], one: Span, other: Span) -> list[int]:
    first, second = sorted((one, other))
    return list(ids[first[1] : second[0]])


def _exchanged(ids: Sequence[int], corrupted: Sequence[int]) -> tuple[Span, Span]:
    different = [
        place for place, pair in enumerate(zip(ids, corrupted, strict=True)) if pair[0] != pair[1]
    ]
    spans: list[Span] = []
    for place in different:
        if spans and spans[-1][1] == place:
            spans[-1] = (spans[-1][0], place + 1)
        else:
            spans.append((place, place + 1))
    if len(spans) == 2:
        (a, b), (c, d) = spans
        if ids[a:b] == corrupted[c:d] and ids[c:d] == corrupted[a:b]:
            return spans[0], spans[1]
    raise PromptError(
        f"The prompt and its corrupted form differ in {len(spans)} stretches of tokens, which are "
        "not two attributes that change places."
    )


def exchange(spans: tuple[Span, Span], *, site: SiteName, layer: int) -> tuple[Edit, ...]:
    """The edits that put what two stretches of equal length hold at each other's place.

    Example:
        >>> edits = exchange(((2, 3), (6, 7)), site="resid_pre", layer=1)
        >>> [(edit.position, edit.source_position) for edit in edits]
        [(2, 6), (6, 2)]
    """
    (a, b), (c, d) = spans
    places = list(zip(range(a, b), range(c, d), strict=True))
    return tuple(
        Edit(site=site, layer=layer, position=to, source_position=origin)
        for x, y in places
        for to, origin in ((x, y), (y, x))
    )


def exchanged(
    model: HookedModel,
    base: BasePass,
    spans: Sequence[Sequence[tuple[Span, Span]]],
    *,
    layers: Sequence[int],
) -> Iterator[tuple[int, mx.array]]:
    """The residual stream before each of these blocks, exchanged between places of each row.

    Args:
        model: The model.
        base: A pass over the prompts, from `prompts_pass`.
        spans: The pairs of places of each row.
        layers: The blocks, one at a time.

    Example:
        >>> from mlux import HookedModel
        >>> from mlux.methods.prompt_rows import prompts_pass
        >>> model = HookedModel.from_pretrained("demo")
        >>> one, other = (
        ...     prompts_pass(model, model.to_batch(text).tokens, site="resid_pre")
        ...     for text in ("mary lives in", "lives mary in")
        ... )
        >>> (_, logits), = exchanged(model, one, [[((1, 2), (2, 3))]], layers=[0])
        >>> mx.array_equal(logits, other.logits).item()
        True

    Yields:
        The layer, and the logits [rows, vocab_size] at the last position.
    """
    for layer in layers:
        edits = [
            tuple(edit for pair in pairs for edit in exchange(pair, site="resid_pre", layer=layer))
            for pairs in spans
        ]
        yield layer, edited_prompts(model, base, base.cache, edits)
