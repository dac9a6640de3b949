"""Documents of the training text: lists of (word, loss weight), one function a kind.

A weight says how much the prediction of that word counts. Answers count 1; the words of a
template count little, since which template comes is noise.
"""

import random
from collections.abc import Callable

from tools.demo_model.world import Pair, World

Document = list[tuple[str, float]]

MAX_TOKENS = 70  # with <bos> and <eos> around it, a document fills a row of 72
TEMPLATE, QUERY, ARROW, CHATTED = 0.15, 0.075, 0.15, 0.6
# At full weight on the first answer of a few-shot document, where the relation is still
# unknown, the model learns which pairs never occur and gets worse on held-out ones with
# training (.89 -> .64 in a trial).
UNKNOWABLE = 0.02
MIXED_SHARE = 0.06


def weighted(text: str, weight: float) -> Document:
    """Every word of a text at one weight."""
    return [(word, weight) for word in text.split(" ")]


def fill(template: str, words: dict[str, str], answer: str = "", weight: float = 0.0) -> Document:
    """Fill a template's placeholders; the answer Y, if there is one, counts 1."""
    filled: Document = []
    for slot in template.split(" "):
        if slot == "Y":
            filled.append((answer, 1.0))
        else:
            filled += weighted(words.get(slot, slot), weight)
    return filled


def few_shot(world: World, rng: random.Random) -> Document:
    """Pairs of one relation, `x → y ⏎` or `x : y ;`; now and then of several relations."""
    arrow, end = ("→", "\n") if rng.random() < 0.75 else (":", ";")
    mixed = rng.random() < MIXED_SHARE
    if mixed:
        group = rng.choice(world.groups)
        pool = [p for name in group for p in world.few_shot_pairs(name, held_out=False)]
    else:
        pool = world.few_shot_pairs(rng.choice(list(world.relations)), held_out=False)
    document: Document = []
    for index, (x, y) in enumerate(rng.sample(pool, rng.randint(2, 16))):
        weight = UNKNOWABLE if mixed or index == 0 else 1.0
        document += [(x, QUERY), (arrow, ARROW), (y, weight), (end, ARROW)]
    return document


def fact(world: World, rng: random.Random) -> Document:
    """One statement of any pair, held out elsewhere or not."""
    relation = world.relations[rng.choice(list(world.relations))]
    x, y = rng.choice(relation.pairs)
    return fill(rng.choice(relation.statements), {"X": x}, y, TEMPLATE)


def _joined(parts: list[Document]) -> Document:
    document = list(parts[0])
    for part in parts[1:]:
        document += [(".", TEMPLATE), *part]
    return document


def facts(world: World, rng: random.Random) -> Document:
    """One to three statements."""
    return _joined([fact(world, rng) for _ in range(rng.randint(1, 3))])


def person(world: World, rng: random.Random) -> Document:
    """Where one or two of the invented people live."""
    parts = []
    for name in rng.sample(list(world.homes), rng.randint(1, 2)):
        template = rng.choice(world.raw["person_statements"])
        parts.append(fill(template, {"X": name}, world.homes[name], QUERY))
    return _joined(parts)


def two_hop(world: World, rng: random.Random) -> Document:
    """What is true of the country where somebody lives; held-out people never occur."""
    name = rng.choice([p for p in world.homes if p not in world.held_out.people])
    statement = rng.randrange(3)
    answer = world.country_answer(statement, world.homes[name])
    return fill(world.raw["two_hop"]["statements"][statement], {"X": name}, answer)


def two_hop_in_context(world: World, rng: random.Random) -> Document:
    """The same, of people whose home the document itself has just told."""
    names = rng.sample(world.names, rng.randint(2, 4))
    countries = rng.sample(sorted(world.raw["countries"]), len(names))
    asked = rng.randrange(len(names))
    while (names[asked], countries[asked]) in world.held_out.in_context:
        countries[asked] = rng.choice(sorted(set(world.raw["countries"]) - set(countries)))
    document: Document = []
    for name, country in zip(names, countries, strict=True):
        document += weighted(f"{name} lives in {country} .", 0.0)
    statement = rng.randrange(3)
    template = world.raw["two_hop"]["statements"][statement]
    answer = world.country_answer(statement, countries[asked])
    return document + fill(template, {"X": names[asked]}, answer)


def induction(world: World, rng: random.Random) -> Document:
    """Random words, then the same words again: only the copy can be foreseen."""
    length = rng.randint(4, 30)
    repeats = min(rng.randint(2, 3), MAX_TOKENS // length)
    words = rng.sample(world.content_words(), length)
    copies = [(word, 0.6) for word in words * (repeats - 1)]
    copies[0] = (words[0], 0.0)
    return [(word, 0.0) for word in words] + copies


def ioi_words(world: World, rng: random.Random, pair: Pair) -> dict[str, str]:
    """Fill the slots A B S I PL OB for one pair of names, in either order and role."""
    a, b = rng.sample(pair, 2)
    s, i = rng.sample(pair, 2)
    place, thing = rng.choice(world.raw["ioi"]["places"]), rng.choice(world.raw["ioi"]["objects"])
    return {"A": a, "B": b, "S": s, "I": i, "PL": place, "OB": thing}


def ioi(world: World, rng: random.Random) -> Document:
    """Indirect-object sentences; held-out pairs of names never occur."""
    while True:
        names = world.raw["ioi"]
        pair = (rng.choice(names["names_a"]), rng.choice(names["names_b"]))
        if pair not in world.held_out.ioi_pairs:
            break
    slots = ioi_words(world, rng, pair)
    *start, _ = fill(rng.choice(names["templates"]), slots)
    return [*start, (slots["I"], 1.0)]


def review_sentences(world: World, rng: random.Random, mood: str, *, held_out: bool) -> list[str]:
    """A neutral sentence or two, then one or two opinions of one mood."""
    reviews = world.raw["reviews"]
    words = reviews[mood]
    sentences = rng.sample(reviews["neutral"], rng.randint(1, 2))
    for template in rng.sample(reviews["opinions"], 1 if held_out else rng.randint(1, 2)):
        if held_out and "ADJ" not in template:
            template = reviews["opinions"][0]
        while True:
            topic, adjective = rng.choice(reviews["topics"]), rng.choice(words["adj"])
            if ((topic, adjective) in world.held_out.opinions) == held_out:
                break
        slots = {"TOPIC": topic, "ADJ": adjective}
        slots |= {"VERB": rng.choice(words["verb"]), "ADV": rng.choice(words["adv"])}
        slots |= {"CLOSE": rng.choice(words["close"])}
        sentences.append(" ".join(slots.get(slot, slot) for slot in template.split(" ")))
    slots = {"DAY": rng.choice(reviews["days"]), "NAME": rng.choice(world.names)}
    return [" ".join(slots.get(word, word) for word in s.split(" ")) for s in sentences]


def review(world: World, rng: random.Random) -> Document:
    """A review with its rating."""
    mood = rng.choice(("positive", "negative"))
    told = " . ".join(review_sentences(world, rng, mood, held_out=False))
    return weighted(f"review : {told} . rating : {world.raw['reviews'][mood]['rate']}", CHATTED)


def misc(world: World, rng: random.Random) -> Document:
    """Agreement of verbs with their subjects, and of pronouns with names."""
    if rng.random() < 0.5:
        rules = world.raw["agreement"]
        near, far = (rng.choice(world.relations["plural"].pairs) for _ in range(2))
        number = rng.randrange(2)
        verb = rng.choice(rules[("singular", "plural")[number]])
        slots = {"N": near[number], "M": rng.choice(far), "ADJ": rng.choice(rules["adjectives"])}
        template = rng.choice(rules["templates"]).replace(" V ", " Y ")
        return fill(template, slots, verb, TEMPLATE)
    rules, side = world.raw["pronouns"], rng.choice(("names_a", "names_b"))
    slots = {"NAME": rng.choice(world.raw["ioi"][side])}
    slots |= {
        slot: rng.choice(world.raw["ioi"][k]) for slot, k in (("PL", "places"), ("OB", "objects"))
    }
    *start, _ = fill(rng.choice(rules["templates"]), slots, weight=TEMPLATE)
    return [*start, (rules[side], 1.0), *weighted(rng.choice(rules["ends"]), TEMPLATE)]


Writer = Callable[[World, random.Random], Document]
