"""Indirect-object identification: two names, one of which is said again, and the other to come.

Source: Wang et al. (2022), "Interpretability in the Wild: a Circuit for Indirect Object
Identification in GPT-2 small", whose templates and kinds of names these are.
"""

import random
import string
from collections.abc import Sequence
from typing import Literal

from mlux.errors import PromptError, UnknownNameError
from mlux.prompts.values import Prompt, PromptSet

IOI_NAMES = (
    "Mary", "John", "Tom", "James", "Dan", "Martin", "Amy", "Michael", "Anna", "Jason", "Kevin",
    "Sarah", "Paul", "David", "Mark", "Robert", "George", "Alice", "Kate", "Laura",
)  # fmt: skip
IOI_PLACES = (
    "store", "garden", "restaurant", "school", "hospital", "office", "house", "station",
)  # fmt: skip
IOI_OBJECTS = (
    "ring", "kiss", "bone", "basketball", "computer", "necklace", "drink", "snack",
)  # fmt: skip
IOI_TEMPLATES = (
    "Then, {A} and {B} went to the {PLACE}. {S} gave a {OBJECT} to",
    "When {A} and {B} got a {OBJECT} at the {PLACE}, {S} decided to give it to",
    "After {A} and {B} went to the {PLACE}, {S} gave a {OBJECT} to",
    "While {A} and {B} were working at the {PLACE}, {S} gave a {OBJECT} to",
    "Then, {A} and {B} had a long argument at the {PLACE}. Afterwards {S} said to",
)
SLOTS = ("A", "B", "S", "PLACE", "OBJECT")

IoiCorruption = Literal["flipped", "abc"]
CORRUPTIONS: tuple[IoiCorruption, ...] = ("flipped", "abc")


def ioi(
    names: Sequence[str] = IOI_NAMES,
    places: Sequence[str] = IOI_PLACES,
    objects: Sequence[str] = IOI_OBJECTS,
    templates: Sequence[str] = IOI_TEMPLATES,
    n: int = 64,
    seed: int = 0,
    corrupt: IoiCorruption = "flipped",
) -> PromptSet:
    """Prompts like "Then, Mary and John went to the store. John gave a ring to" (Mary).

    Each prompt has the roles text, corrupted, answer (the name said once), wrong_answer and subject
    (the name said twice) and label: `ABBA` if the second name is repeated, `BABA` if the first is;
    half of each.

    Args:
        names: At least two, or five for the corruption `abc`.
        places: For the slot {PLACE}.
        objects: For the slot {OBJECT}.
        templates: Texts with the slots {A}, {B} and {S}, and {PLACE} and {OBJECT} if they like,
            that end where the answer comes.
        n: How many different prompts.
        seed: Of what is drawn.
        corrupt: `flipped` lets the other name give, which changes the answer; `abc` puts three
            other names in.

    Example:
        >>> prompt = ioi(names=["Mary", "John"], n=1).prompts[0]
        >>> prompt.label, {prompt.answer, prompt.wrong_answer} == {"Mary", "John"}
        ('ABBA', True)

    Raises:
        PromptError: If a template lacks a slot or has another one, or the lists give fewer
            different prompts.
    """
    if corrupt not in CORRUPTIONS:
        raise UnknownNameError("corruption", str(corrupt), CORRUPTIONS)
    _check_templates(templates)
    wanted = 5 if corrupt == "abc" else 2
    if len(set(names)) < wanted:
        raise PromptError(f"ioi needs at least {wanted} names; {len(set(names))} are given.")
    if not (places and objects and n >= 1):
        raise PromptError("ioi needs a place, an object and at least one prompt.")
    rng = random.Random(f"{seed} ioi")
    prompts: dict[str, Prompt] = {}
    for _ in range(50 * n):  # repeats are rare unless the lists are nearly used up
        prompt = _prompt(names, places, objects, templates, corrupt, len(prompts) % 2, rng)
        prompts.setdefault(prompt.text, prompt)
        if len(prompts) == n:
            break
    else:
        raise PromptError(f"These lists give {len(prompts)} different prompts, not {n}.")
    return PromptSet(
        name=f"ioi seed {seed}",
        prompts=tuple(prompts.values()),
        description=f"Indirect-object identification, corrupted: {corrupt}",
    )


def _check_templates(templates: Sequence[str]) -> None:
    for template in templates:
        slots = {slot for _, slot, _, _ in string.Formatter().parse(template) if slot is not None}
        wrong = sorted({"A", "B", "S"} - slots) or sorted(slots - {*SLOTS})
        if wrong:
            raise PromptError(
                f"The template {template!r} {'has' if wrong[0] in slots else 'lacks'} the slot "
                f"{{{wrong[0]}}}; expected {{A}}, {{B}}, {{S}} and perhaps {{PLACE}}, {{OBJECT}}."
            )
    if not templates:
        raise PromptError("ioi needs at least one template.")


def _prompt(
    names: Sequence[str],
    places: Sequence[str],
    objects: Sequence[str],
    templates: Sequence[str],
    corrupt: IoiCorruption,
    repeated: int,
    rng: random.Random,
) -> Prompt:
    a, b = pair = rng.sample(sorted(set(names)), 2)
    subject, answer = (b, a) if repeated == 0 else (a, b)
    template = rng.choice(templates)
    other = {"PLACE": rng.choice(places), "OBJECT": rng.choice(objects)}
    broken = {"A": a, "B": b, "S": answer}
    if corrupt == "abc":
        c, d, e = rng.sample(sorted(set(names) - {*pair}), 3)
        broken = {"A": c, "B": d, "S": e}
    return Prompt(
        text=template.format(A=a, B=b, S=subject, **other),
        corrupted=template.format(**broken, **other),
        answer=answer,
        wrong_answer=subject,
        subject=subject,
        label="ABBA" if subject == b else "BABA",
    )
