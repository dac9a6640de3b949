"""The little world that the model learns, and what is held out of which kind of text."""

import json
import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

WORLD_FILE = Path(__file__).with_name("world.json")
PEOPLE_PER_COUNTRY = 2
HELD_OUT_SHARE = 0.18  # of each relation's pairs, and of the people
HELD_OUT_COMBINATIONS = 0.15  # of the two names, words or things that a sentence combines
HELD_OUT_REQUESTS = 0.25  # there are few, and a prompt set needs enough of them

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Relation:
    """Word pairs of one relation, with the sentences that state it (X query, Y answer)."""

    name: str
    pairs: tuple[Pair, ...]
    statements: tuple[str, ...]
    question: str

    def answer(self, word: str) -> str:
        """The answer to one query word."""
        return self._answers[word]

    @cached_property
    def _answers(self) -> dict[str, str]:
        return dict(self.pairs)


@dataclass(frozen=True, kw_only=True)
class HoldOuts:
    """What a kind of document never contains. The same facts do occur in other kinds."""

    few_shot: dict[str, frozenset[Pair]]
    people: frozenset[str]
    ioi_pairs: frozenset[Pair]
    in_context: frozenset[Pair]
    requests: frozenset[Pair]
    opinions: frozenset[Pair]


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything there is to say."""

    raw: dict[str, Any]
    relations: dict[str, Relation]
    groups: tuple[tuple[str, ...], ...]
    homes: dict[str, str]
    held_out: HoldOuts

    def few_shot_pairs(self, relation: str, *, held_out: bool) -> list[Pair]:
        """Pairs of a relation that do, or do not, occur in few-shot documents."""
        away = self.held_out.few_shot[relation]
        return [pair for pair in self.relations[relation].pairs if (pair in away) == held_out]

    def content_words(self) -> list[str]:
        """Every word of every relation, sorted: the words of induction sequences."""
        pairs = (pair for relation in self.relations.values() for pair in relation.pairs)
        return sorted({word for pair in pairs for word in pair})

    def country_answer(self, statement: int, country: str) -> str:
        """What a two-hop statement (0 capital, 1 continent, 2 people) says of a country."""
        facts = self.raw["countries"][country]
        return str(facts[("capital", "continent", "people")[statement]])

    @property
    def names(self) -> list[str]:
        """First names, used in sentences about indirect objects and homes in context."""
        return [*self.raw["ioi"]["names_a"], *self.raw["ioi"]["names_b"]]


def load_world(seed: int = 0) -> World:
    """Read the word lists; the seed chooses people, homes and hold-outs."""
    raw = json.loads(WORLD_FILE.read_text(encoding="utf-8"))
    relations = {
        name: Relation(
            name=name,
            pairs=tuple((x, y) for x, y in entry["pairs"]),
            statements=tuple(entry["statements"]),
            question=entry["question"],
        )
        for name, entry in raw["relations"].items()
    }
    homes = _homes(raw, relations, seed)
    return World(
        raw=raw,
        relations=relations,
        groups=tuple(tuple(group) for group in raw["relation_groups_sharing_inputs"]),
        homes=homes,
        held_out=_hold_outs(raw, relations, homes, seed),
    )


def _homes(raw: dict[str, Any], relations: dict[str, Relation], seed: int) -> dict[str, str]:
    """Invent people, two to a country."""
    rng = random.Random(f"{seed} people")
    taken = {word for r in relations.values() for pair in r.pairs for word in pair}
    taken |= {*raw["ioi"]["names_a"], *raw["ioi"]["names_b"]}
    countries = sorted(raw["countries"]) * PEOPLE_PER_COUNTRY
    rng.shuffle(countries)
    people: list[str] = []
    while len(people) < len(countries):
        # Endings that neither Zorbic (x, q) nor the country names share.
        parts = ("bdfgklmnprstvz", "aeiou", "bdfgklmnprstvz", "aeiou", "lmrs")
        name = "".join(rng.choice(letters) for letters in parts)
        if name not in taken:
            taken.add(name)
            people.append(name)
    return dict(zip(people, countries, strict=True))


def _hold_outs(
    raw: dict[str, Any], relations: dict[str, Relation], homes: dict[str, str], seed: int
) -> HoldOuts:
    def share(items: list[Any], fraction: float, label: str) -> frozenset[Any]:
        return frozenset(
            random.Random(f"{seed} {label}").sample(items, round(fraction * len(items)))
        )

    def combinations(
        firsts: list[str],
        seconds: list[str],
        label: str,
        fraction: float = HELD_OUT_COMBINATIONS,
    ) -> frozenset[Pair]:
        return share([(a, b) for a in firsts for b in seconds], fraction, label)

    def requests(kind: str) -> frozenset[Pair]:
        return combinations(refusal[kind], refusal["things"], kind, HELD_OUT_REQUESTS)

    few_shot = {}
    for name, relation in relations.items():
        # A pair and its reverse go together, or the antonym would be given away.
        both_ways = sorted({(min(pair), max(pair)) for pair in relation.pairs})
        away = share(both_ways, HELD_OUT_SHARE, f"few shot {name}")
        few_shot[name] = frozenset(p for p in relation.pairs if (min(p), max(p)) in away)
    ioi, reviews, refusal = raw["ioi"], raw["reviews"], raw["refusal"]
    names = [*ioi["names_a"], *ioi["names_b"]]
    adjectives = [*reviews["positive"]["adj"], *reviews["negative"]["adj"]]
    return HoldOuts(
        few_shot=few_shot,
        people=share(list(homes), HELD_OUT_SHARE, "people"),
        ioi_pairs=combinations(ioi["names_a"], ioi["names_b"], "ioi"),
        in_context=combinations(names, sorted(raw["countries"]), "in context"),
        requests=requests("harmless_verbs") | requests("harmful_verbs"),
        opinions=combinations(reviews["topics"], adjectives, "opinions"),
    )
