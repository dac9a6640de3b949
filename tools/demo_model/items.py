"""Held-out test items about word relations: facts, few-shot, zero-shot, chat questions."""

import random
from dataclasses import dataclass

from tools.demo_model.world import Pair, World

EXAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class Item:
    """One prompt with its roles, as mlux's prompt sets name them; "" where a role is absent.

    Answers are single words without the space before them. `corrupted` has as many tokens
    as `text`.
    """

    text: str
    corrupted: str = ""
    answer: str = ""
    wrong_answer: str = ""
    subject: str = ""
    label: str = ""
    template: str = "raw"

    def roles(self) -> dict[str, str]:
        """The roles that are there, without a default template."""
        filled = {name: value for name, value in vars(self).items() if value}
        if self.template == "raw":
            del filled["template"]
        return filled


def spread(pairs: list[Pair], count: int, rng: random.Random) -> list[Pair]:
    """`count` pairs in random order, each as often as any other, give or take one."""
    chosen: list[Pair] = []
    while len(chosen) < count:
        chosen += rng.sample(pairs, len(pairs))
    return chosen[:count]


def other_pair(pairs: list[Pair], pair: Pair, rng: random.Random) -> Pair:
    """Another pair with another answer, which is not the query either."""
    return rng.choice([p for p in pairs if p[0] != pair[0] and p[1] not in pair])


def first_is_the_word(text: str, word: str) -> bool:
    """Whether the first place where `word` occurs as a substring is the word itself."""
    start = text.find(word)
    before, after = text[:start], text[start + len(word) :]
    return start >= 0 and before[-1:] in ("", " ") and after[:1] in ("", " ")


def facts(world: World, rng: random.Random, per_relation: int) -> list[Item]:
    """Statements up to their answer. Corrupted: the same statement about another word."""
    items: dict[str, Item] = {}
    for name, relation in world.relations.items():
        pairs = world.few_shot_pairs(name, held_out=True)
        wanted = len(items) + per_relation
        while len(items) < wanted:
            for pair in spread(pairs, per_relation, rng):
                template = rng.choice(relation.statements)
                start = template.split(" Y")[0].strip()
                x, y = other_pair(pairs, pair, rng)
                text = _say(start, pair[0])
                if len(items) < wanted and first_is_the_word(text, pair[0]):
                    items[text] = Item(
                        text=text,
                        corrupted=_say(start, x),
                        answer=pair[1],
                        wrong_answer=y,
                        subject=pair[0],
                        label=name,
                    )
    return list(items.values())


def _say(template: str, word: str) -> str:
    return " ".join(word if slot == "X" else slot for slot in template.split(" "))


def sibling_answer(world: World, name: str, pair: Pair, rng: random.Random) -> str:
    """What a relation with the same query words would answer: the tempting mistake."""
    tempting = []
    for group in world.groups:
        for sibling in group if name in group else ():
            relation = world.relations[sibling]
            if sibling != name and any(x == pair[0] for x, _ in relation.pairs):
                tempting.append(relation.answer(pair[0]))
    if tempting:
        return rng.choice(tempting)
    return other_pair(list(world.relations[name].pairs), pair, rng)[1]


def few_shot(
    world: World, rng: random.Random, per_relation: int, examples: int = EXAMPLES
) -> list[Item]:
    """Training pairs as examples, then a held-out query that ends with the arrow.

    Corrupted: the examples come each from a different one of the other relations, so that
    nothing tells the task. (Shuffling the answers within a relation corrupts little: the
    model recognises the task from the words.)
    """
    items = []
    for name in world.relations:
        shown = world.few_shot_pairs(name, held_out=False)
        for query, answer in spread(world.few_shot_pairs(name, held_out=True), per_relation, rng):
            fair = [p for p in shown if query not in p and answer != p[0]]
            items.append(
                Item(
                    text=_listed(rng.sample(fair, examples), query),
                    corrupted=_listed(_mixed(world, rng, name, (query, answer), examples), query),
                    answer=answer,
                    wrong_answer=sibling_answer(world, name, (query, answer), rng),
                    subject="" if examples else query,
                    label=name,
                )
            )
    return items


def _mixed(world: World, rng: random.Random, name: str, query: Pair, examples: int) -> list[Pair]:
    chosen = []
    for other in rng.sample([other for other in world.relations if other != name], examples):
        pairs = world.few_shot_pairs(other, held_out=False)
        chosen.append(rng.choice([p for p in pairs if not {*p} & {*query}]))
    return chosen


def _listed(pairs: list[Pair], query: str) -> str:
    return "".join(f"{x} → {y}\n" for x, y in pairs) + f"{query} →"


def zero_shot(few_shot_items: list[Item]) -> list[Item]:
    """The queries of few-shot items alone."""
    bare = {}
    for item in few_shot_items:
        query = item.text.split("\n")[-1]
        bare[query, item.label] = Item(
            text=query,
            answer=item.answer,
            wrong_answer=item.wrong_answer,
            subject=query.split(" ")[0],
            label=item.label,
        )
    return list(bare.values())


def chat_questions(world: World, rng: random.Random, per_relation: int) -> list[Item]:
    """Questions of a user about a pair. Corrupted: the question about another word."""
    items = []
    for name, relation in world.relations.items():
        pairs = world.few_shot_pairs(name, held_out=True)
        fair = [p for p in pairs if first_is_the_word(_say(relation.question, p[0]), p[0])]
        for pair in spread(fair, min(per_relation, len(fair)), rng):
            x, y = other_pair(pairs, pair, rng)
            items.append(
                Item(
                    text=_say(relation.question, pair[0]),
                    corrupted=_say(relation.question, x),
                    answer=pair[1],
                    wrong_answer=y,
                    subject=pair[0],
                    label=name,
                    template="chat",
                )
            )
    return items
