"""In-context prompts: examples of a task, then a query that the examples do not show.

Source: Brown et al. (2020), "Language models are few-shot learners"; the corruption by shuffled
labels after Todd et al. (2024), "Function vectors in large language models".
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlux.errors import PromptError, UnknownNameError
from mlux.prompts.tasks import Pair, Task
from mlux.prompts.values import Prompt, PromptSet

Corruption = Literal["shuffled", "mixed"]
CORRUPTIONS: tuple[Corruption, ...] = ("shuffled", "mixed")


def in_context(
    tasks: Mapping[str, Task | Sequence[Pair]],
    n_shots: int,
    n: int,
    seed: int = 0,
    corrupt: Corruption = "shuffled",
    separator: str = "\n",
    arrow: str = " → ",
    prefix: str = "",
) -> PromptSet:
    r"""Prompts of `n_shots` examples and a query: `x → y ⏎ x → y ⏎ q →`.

    Each prompt has the roles text, corrupted (the same query after examples that do not tell the
    task), answer, wrong_answer (what another task says of the same query, where there is one;
    else another answer of this task), subject (the query) and label (the task).

    Args:
        tasks: Task → its pairs, or a `Task` that holds some out to be asked for.
        n_shots: Examples before the query; with 0 there is no corrupted prompt.
        n: Prompts of each task. Queries are asked equally often, give or take one.
        seed: Of what is drawn. The prompts of a task depend on nothing but its own pairs, and, for
            mixed corruption, on the tasks it is mixed with.
        corrupt: `shuffled` gives the examples each other's answers, as in the paper; `mixed` takes
            them from other tasks, each from a different one as far as they reach.
        separator: Between an example and what follows.
        arrow: Between a query and its answer; ends in white space.
        prefix: Before every query, such as `Q: `.

    Example:
        >>> tasks = {"antonym": [("hot", "cold"), ("big", "small"), ("old", "new")]}
        >>> prompt = in_context(tasks, n_shots=2, n=1).prompts[0]
        >>> prompt.text, prompt.corrupted, prompt.answer
        ('big → small\nhot → cold\nold →', 'big → cold\nhot → small\nold →', 'new')

    Raises:
        PromptError: If there are too few pairs, tasks or different prompts for what is asked.
    """
    if corrupt not in CORRUPTIONS:
        raise UnknownNameError("corruption", str(corrupt), CORRUPTIONS)
    if n_shots < 0 or n < 1 or not tasks:
        raise PromptError(f"Cannot make {n} prompts of {n_shots} examples from {len(tasks)} tasks.")
    if not arrow[-1:].isspace():
        raise PromptError(f"The arrow is {arrow!r}; end it in white space, as answers begin.")
    form = _Form(separator, arrow, prefix)
    given = {name: _as_task(task) for name, task in tasks.items()}
    prompts = []
    for name in given:
        rng = random.Random(f"{seed} in context {name}")
        prompts += _of_task(given, name, n_shots, n, corrupt, form, rng)
    return PromptSet(
        name=f"{n_shots}-shot seed {seed}",
        prompts=tuple(prompts),
        description=f"{n_shots} examples of {len(given)} tasks, corrupted by {corrupt} examples",
    )


def shuffle_labels(text: str, *, separator: str = "\n", arrow: str = " → ", seed: int = 0) -> str:
    r"""A few-shot prompt whose examples have each other's answers.

    Args:
        text: Examples and a query, as `in_context` writes them.
        separator: Between an example and what follows.
        arrow: Between a query and its answer.
        seed: Of the order; the text enters too.

    Example:
        >>> shuffle_labels("hot → cold\nbig → small\nold →")
        'hot → small\nbig → cold\nold →'

    Raises:
        PromptError: If the examples are not written so.
    """
    pairs, query = _examples(text, separator, arrow)
    labels = _deranged([y for _, y in pairs], random.Random(f"{seed} {text}"))
    shown = [f"{x}{arrow}{y}" for (x, _), y in zip(pairs, labels, strict=True)]
    return separator.join([*shown, query])


def mix_examples(
    prompts: Sequence[Prompt], *, separator: str = "\n", arrow: str = " → ", seed: int = 0
) -> list[str | None]:
    r"""Each few-shot prompt's query after as many examples of the other prompts' tasks.

    Args:
        prompts: Prompts of several tasks (their labels), as `in_context` writes them.
        separator: Between an example and what follows.
        arrow: Between a query and its answer.
        seed: Of the choice; the text enters too.

    Returns:
        For each prompt the text; None if no other task has an example without words of the query.

    Example:
        >>> plural = Prompt(text="dog → dogs\ncat →", answer="cats", label="plural")
        >>> antonym = Prompt(text="hot → cold\nbig →", answer="small", label="antonym")
        >>> mix_examples([plural, antonym])
        ['hot → cold\ncat →', 'dog → dogs\nbig →']

    Raises:
        PromptError: If the examples are not written so.
    """
    split = [_examples(prompt.text, separator, arrow) for prompt in prompts]
    shown: dict[str, dict[str, list[str]]] = {}  # task → example → its two words, in a fixed order
    for prompt, (pairs, _) in zip(prompts, split, strict=True):
        shown.setdefault(prompt.label or "", {}).update({arrow.join(pair): pair for pair in pairs})
    mixed: list[str | None] = []
    for prompt, (pairs, query) in zip(prompts, split, strict=True):
        rng = random.Random(f"{seed} mixed {prompt.text}")
        own = {query.removesuffix(arrow.rstrip()).strip(), (prompt.answer or "").strip()}
        fair = [
            [example for example, pair in examples.items() if not own & {*pair}]
            for task, examples in shown.items()
            if task != (prompt.label or "")
        ]
        others = [examples for examples in fair if examples]
        chosen: list[str] = []
        while others and len(chosen) < len(pairs):
            for examples in rng.sample(others, min(len(others), len(pairs) - len(chosen))):
                chosen.append(rng.choice(examples))
        mixed.append(separator.join([*chosen, query]) if chosen else None)
    return mixed


def _examples(text: str, separator: str, arrow: str) -> tuple[list[list[str]], str]:
    """The pairs of a few-shot prompt and its query."""
    *examples, query = text.split(separator)
    pairs = [example.split(arrow) for example in examples]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise PromptError(
            f"{text[:40]!r} does not begin with examples written as x{arrow}y, with "
            f"{separator!r} between them, so their labels cannot be shuffled or mixed."
        )
    return pairs, query


@dataclass(frozen=True)
class _Form:
    """How pairs are written."""

    separator: str
    arrow: str
    prefix: str

    def text(self, shown: Sequence[Pair], query: str) -> str:
        examples = (f"{self.prefix}{x}{self.arrow}{y}{self.separator}" for x, y in shown)
        # An answer is joined by one space, unless the text ends in other white space.
        return f"{''.join(examples)}{self.prefix}{query}{self.arrow.removesuffix(' ')}"


def _as_task(task: Task | Sequence[Pair]) -> Task:
    return task if isinstance(task, Task) else Task(train=tuple((x, y) for x, y in task))


def _of_task(
    tasks: Mapping[str, Task],
    name: str,
    n_shots: int,
    n: int,
    corrupt: Corruption,
    form: _Form,
    rng: random.Random,
) -> list[Prompt]:
    """`n` different prompts of one task; queries in random order, equally often."""
    prompts: dict[str, Prompt] = {}
    queries = list(tasks[name].queries)
    for _ in range(20 * (n // max(1, len(queries)) + 1)):  # rounds; few-shot prompts seldom repeat
        for pair in rng.sample(queries, len(queries)):
            shown = _fair(tasks[name].train, pair)
            if len(shown) < n_shots:
                raise PromptError(
                    f"The task {name!r} has {len(shown)} pairs to show before "
                    f"{pair[0]!r}, not {n_shots}."
                )
            chosen = rng.sample(shown, n_shots)
            others = _corrupted(tasks, name, chosen, pair, corrupt, rng)
            text = form.text(chosen, pair[0])
            prompts[text] = Prompt(
                text=text,
                corrupted=form.text(others, pair[0]) if n_shots else None,
                answer=pair[1],
                wrong_answer=_wrong_answer(tasks, name, pair, rng),
                subject=pair[0],
                label=name,
            )
            if len(prompts) == n:
                return list(prompts.values())
    raise PromptError(
        f"The task {name!r} gives {len(prompts)} different prompts of {n_shots} examples, not {n}."
    )


def _fair(pairs: Sequence[Pair], query: Pair) -> list[Pair]:
    """The pairs that may be shown before a query: none that gives its answer away."""
    return [pair for pair in pairs if query[0] not in pair and query[1] != pair[0]]


def _corrupted(
    tasks: Mapping[str, Task],
    name: str,
    chosen: Sequence[Pair],
    query: Pair,
    corrupt: Corruption,
    rng: random.Random,
) -> list[Pair]:
    """As many examples that do not tell the task."""
    if corrupt == "shuffled":
        answers = _deranged([y for _, y in chosen], rng)
        return [(x, y) for (x, _), y in zip(chosen, answers, strict=True)]
    others = [other for other in tasks if other != name]
    if chosen and not others:
        raise PromptError("Mixed examples need at least two tasks; use corrupt='shuffled'.")
    mixed: list[Pair] = []
    while len(mixed) < len(chosen):
        for other in rng.sample(others, min(len(others), len(chosen) - len(mixed))):
            mixed.append(rng.choice(_away_from(tasks[other].train, query, other)))
    return mixed


def _away_from(pairs: Sequence[Pair], query: Pair, name: str) -> list[Pair]:
    fair = [pair for pair in pairs if not {*pair} & {*query}]
    if not fair:
        raise PromptError(f"Every pair of the task {name!r} has a word of {query}.")
    return fair


def _deranged(answers: list[str], rng: random.Random) -> list[str]:
    """The answers in another order, as few as possible in their own place."""
    best = answers
    for _ in range(50):  # a third of all orders leave nothing in its place
        order = rng.sample(answers, len(answers))
        stay = sum(map(str.__eq__, order, answers))
        if stay < sum(map(str.__eq__, best, answers)):
            best = order
        if not stay:
            break
    return best


def _wrong_answer(
    tasks: Mapping[str, Task], name: str, pair: Pair, rng: random.Random
) -> str | None:
    """What another task says of the query, the tempting mistake; else another answer of this."""
    tempting = [
        y
        for other, task in tasks.items()
        if other != name
        for x, y in (*task.train, *task.held_out)
        if x == pair[0] and y != pair[1]
    ]
    own = [y for x, y in (*tasks[name].train, *tasks[name].held_out) if y not in pair]
    return rng.choice(tempting or own) if tempting or own else None
