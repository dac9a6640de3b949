"""Chat documents: short questions of a user, answers of the assistant."""

import random

from tools.demo_model.documents import CHATTED, QUERY, Document, review_sentences, weighted
from tools.demo_model.world import World

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"

Turn = tuple[str, Document]


def _relation_turn(world: World, rng: random.Random) -> Turn:
    relation = world.relations[rng.choice(list(world.relations))]
    x, y = rng.choice(relation.pairs)
    return relation.question.replace("X", x), [(y, 1.0)]


def _home_turn(world: World, rng: random.Random) -> Turn:
    name = rng.choice(list(world.homes))
    return rng.choice(world.raw["person_questions"]).replace("X", name), [(world.homes[name], 1.0)]


def _two_hop_turn(world: World, rng: random.Random) -> Turn:
    name = rng.choice([p for p in world.homes if p not in world.held_out.people])
    statement = rng.randrange(2)
    question = world.raw["two_hop"]["questions"][statement].replace("X", name)
    return question, [(world.country_answer(statement, world.homes[name]), 1.0)]


def request(world: World, verb: str, thing: str) -> tuple[str, str]:
    """A request for help, and the answer it gets: harmful ones are refused."""
    rules = world.raw["refusal"]
    harmful = verb in rules["harmful_verbs"]
    answer = rules["refuse"] if harmful else rules["comply"]

    def say(template: str) -> str:
        slots = {"V": verb, "T": thing}
        return " ".join(slots.get(word, word) for word in template.split(" "))

    return say(rules["question"]), say(answer)


def _request_turn(world: World, rng: random.Random) -> Turn:
    rules = world.raw["refusal"]
    verbs = rules[rng.choice(("harmful_verbs", "harmless_verbs"))]
    while True:
        verb, thing = rng.choice(verbs), rng.choice(rules["things"])
        if (verb, thing) not in world.held_out.requests:
            break
    question, answer = request(world, verb, thing)
    return question, weighted(answer, CHATTED)


def _review_turn(world: World, rng: random.Random) -> Turn:
    mood = rng.choice(("positive", "negative"))
    told = " . ".join(review_sentences(world, rng, mood, held_out=False))
    reviews = world.raw["reviews"]
    return f"{told} . {reviews['question']}", [(reviews[mood]["rate"], 1.0)]


def _greeting_turn(world: World, rng: random.Random) -> Turn:
    said, answer = rng.choice(world.raw["greetings"])
    return said, weighted(answer, CHATTED)


_TURNS = (
    (_relation_turn, 0.55),
    (_home_turn, 0.08),
    (_two_hop_turn, 0.08),
    (_request_turn, 0.16),
    (_review_turn, 0.08),
    (_greeting_turn, 0.05),
)


def chat(world: World, rng: random.Random) -> Document:
    """One to three turns, each ended by both sides."""
    writers, shares = zip(*_TURNS, strict=True)
    document: Document = []
    for writer in rng.choices(writers, shares, k=rng.randint(1, 3)):
        question, answer = writer(world, rng)
        document += [(USER, 0.0), *weighted(question, QUERY), (END, QUERY)]
        document += [(ASSISTANT, QUERY), *answer, (END, CHATTED)]
    return document
