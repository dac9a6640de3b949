"""Held-out test items in sentences: two-hop, homes, IOI, induction, reviews, requests."""

import random

from tools.demo_model.chat import request
from tools.demo_model.documents import ioi_words
from tools.demo_model.items import Item
from tools.demo_model.world import World

INDUCTION_WORDS = 20


def two_hop(world: World, rng: random.Random) -> list[Item]:
    """Every held-out person under every statement. Corrupted: another of those people."""
    people = sorted(world.held_out.people)
    items = []
    for person in people:
        for index, statement in enumerate(world.raw["two_hop"]["statements"]):
            answers = {p: world.country_answer(index, world.homes[p]) for p in people}
            other = rng.choice([p for p in people if answers[p] != answers[person]])
            start = statement.removesuffix(" Y")
            items.append(
                Item(
                    text=start.replace("X", person),
                    corrupted=start.replace("X", other),
                    answer=answers[person],
                    wrong_answer=answers[other],
                    subject=person,
                    label=world.homes[person],
                )
            )
    return items


def two_hop_in_context(world: World, rng: random.Random, count: int) -> list[Item]:
    """Two homes, then a question about one. Corrupted: the countries change places."""
    items: dict[str, Item] = {}
    asked_pairs = sorted(world.held_out.in_context)
    while len(items) < count:
        (asked, home) = rng.choice(asked_pairs)
        name = rng.choice([n for n in world.names if n != asked])
        index = rng.randrange(3)
        answer = world.country_answer(index, home)
        different = [c for c in world.raw["countries"] if world.country_answer(index, c) != answer]
        country = rng.choice(different)
        start = world.raw["two_hop"]["statements"][index].removesuffix(" Y").replace("X", asked)
        told, swapped = [(asked, home), (name, country)], [(asked, country), (name, home)]
        if rng.random() < 0.5:
            told, swapped = told[::-1], swapped[::-1]
        text = _homes(told) + start
        items[text] = Item(
            text=text,
            corrupted=_homes(swapped) + start,
            answer=answer,
            wrong_answer=world.country_answer(index, country),
            subject=asked,
            label=home,
        )
    return list(items.values())


def _homes(told: list[tuple[str, str]]) -> str:
    return "".join(f"{name} lives in {country} . " for name, country in told)


def homes(world: World) -> list[Item]:
    """Where each invented person lives, in the first of the three templates."""
    return [
        Item(text=f"{name} lives in", answer=country, subject=name, label=country)
        for name, country in world.homes.items()
    ]


def ioi(world: World, rng: random.Random, count: int) -> list[Item]:
    """Pairs of names never seen together. Corrupted: the other name gives."""
    items: dict[str, Item] = {}
    pairs = sorted(world.held_out.ioi_pairs)
    while len(items) < count:
        slots = ioi_words(world, rng, rng.choice(pairs))
        template = rng.choice(world.raw["ioi"]["templates"]).removesuffix(" I")
        text = " ".join(slots.get(slot, slot) for slot in template.split(" "))
        flipped = slots | {"S": slots["I"]}
        items[text] = Item(
            text=text,
            corrupted=" ".join(flipped.get(slot, slot) for slot in template.split(" ")),
            answer=slots["I"],
            wrong_answer=slots["S"],
            subject=slots["S"],
            label="ABBA" if slots["S"] == slots["B"] else "BABA",
        )
    return list(items.values())


def induction(world: World, rng: random.Random, count: int) -> list[Item]:
    """Random words, then the same again up to some word. Corrupted: the first part differs."""
    items = []
    for _ in range(count):
        words = rng.sample(world.content_words(), 2 * INDUCTION_WORDS)
        first, unrelated = words[:INDUCTION_WORDS], words[INDUCTION_WORDS:]
        # A few fixed places, so that prompts come in a few lengths only.
        known = rng.choice((5, 10, 15, 19))
        answer = first[known]
        items.append(
            Item(
                text=" ".join(first + first[:known]),
                corrupted=" ".join(unrelated + first[:known]),
                answer=answer,
                wrong_answer=rng.choice([w for w in first if w != answer]),
                label=f"after {known} words",
            )
        )
    return items


def reviews(world: World, rng: random.Random, count: int) -> list[Item]:
    """Reviews of a topic in words never put together. Corrupted: the other mood's words."""
    rules = world.raw["reviews"]
    items: dict[str, Item] = {}
    while len(items) < count:
        moods = ("positive", "negative") if len(items) % 2 == 0 else ("negative", "positive")
        words, others = (rules[mood] for mood in moods)
        held_out = [p for p in sorted(world.held_out.opinions) if p[1] in words["adj"]]
        topic, adjective = rng.choice(held_out)
        adverb = rng.randrange(len(words["adv"]))
        told = rng.choice(rules["neutral"]).replace("DAY", rng.choice(rules["days"]))
        told = told.replace("NAME", rng.choice(world.names))
        opinion = rng.choice([o for o in rules["opinions"] if "ADJ" in o])
        start = f"review : {told} . {opinion} . rating :".replace("TOPIC", topic)
        text = start.replace("ADJ", adjective).replace("ADV", words["adv"][adverb])
        opposite = others["adj"][words["adj"].index(adjective)]
        items[text] = Item(
            text=text,
            corrupted=start.replace("ADJ", opposite).replace("ADV", others["adv"][adverb]),
            answer=words["rate"],
            wrong_answer=others["rate"],
            subject=adjective,
            label=moods[0],
        )
    return list(items.values())


def requests(world: World) -> list[Item]:
    """Requests never made in training, half of them harmful. Corrupted: the other kind."""
    rules = world.raw["refusal"]
    items = []
    kinds = ("harmful_verbs", "harmless_verbs")
    for verb, thing in sorted(world.held_out.requests):
        kind, opposite_kind = kinds if verb in rules[kinds[0]] else kinds[::-1]
        opposite_verb = rules[opposite_kind][rules[kind].index(verb)]
        question, answer = request(world, verb, thing)
        opposite, wrong = request(world, opposite_verb, thing)
        items.append(
            Item(
                text=question,
                corrupted=opposite,
                answer=answer.split(" ")[0],
                wrong_answer=wrong.split(" ")[0],
                subject=verb,
                label=kind.removesuffix("_verbs"),
                template="chat",
            )
        )
    return items
