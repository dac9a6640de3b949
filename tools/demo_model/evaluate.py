"""Measure the exported model on held-out items: the figures of the model card."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.demo_model import heads, items, sentence_items, vectors
from tools.demo_model.items import Item
from tools.demo_model.reader import Reader, open_folder
from tools.demo_model.world import World

SEED = 1  # not the seed of the shipped prompt sets


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the card: what was measured, and what it has to reach."""

    task: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the value is within its bounds."""
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)


def evaluate(world: World, folder: Path) -> list[Figure]:
    """Every figure, in the order of the card."""
    reader = open_folder(folder)
    return [
        *_relation_figures(world, reader),
        *_sentence_figures(world, reader),
        *_chat_figures(world, reader),
        *_head_figures(world, reader),
        *_vector_figures(world, reader),
        *_lens_figures(world, reader),
    ]


def _rng(task: str) -> random.Random:
    return random.Random(f"{SEED} evaluate {task}")


def mean_by_label(reader: Reader, prompts: Sequence[Item], *, corrupted: bool = False) -> float:
    """Accuracy of each label, averaged over labels."""
    right = reader.correct(prompts, reader.logits(prompts, corrupted=corrupted))
    labels = np.array([item.label for item in prompts])
    return float(np.mean([right[labels == label].mean() for label in sorted(set(labels))]))


def _relation_figures(world: World, reader: Reader) -> list[Figure]:
    figures = []
    for examples in (8, 4, 2, 1):
        prompts = items.few_shot(world, _rng("few shot"), 20, examples)
        figures.append(
            Figure(
                task=f"few-shot, {examples} example{'s' if examples > 1 else ''}",
                value=mean_by_label(reader, prompts),
                at_least=0.95 if examples == 8 else None,
            )
        )
    eight = items.few_shot(world, _rng("few shot"), 20)
    figures += [
        Figure(
            task="zero-shot, the same queries",
            value=mean_by_label(reader, items.zero_shot(eight)),
            at_most=0.15,
        ),
        Figure(
            task="few-shot, 8 examples of mixed relations",
            value=mean_by_label(reader, eight, corrupted=True),
        ),
        Figure(
            task="facts",
            value=reader.accuracy(items.facts(world, _rng("facts"), 20)),
            at_least=0.99,
        ),
    ]
    return figures


def _sentence_figures(world: World, reader: Reader) -> list[Figure]:
    ioi = sentence_items.ioi(world, _rng("ioi"), 500)
    logits = reader.logits(ioi)
    rows = np.arange(len(ioi))
    wrong = np.array([reader.word_id(item.wrong_answer) for item in ioi])
    gap = logits[rows, reader.answers(ioi)] - logits[rows, wrong]
    in_context = sentence_items.two_hop_in_context(world, _rng("in context"), 300)
    two_hop = sentence_items.two_hop(world, _rng("two hop"))
    reviews = sentence_items.reviews(world, _rng("reviews"), 200)
    return [
        Figure(task="homes of people", value=reader.accuracy(sentence_items.homes(world))),
        Figure(
            task="two-hop, people never seen in two-hop text",
            value=reader.accuracy(two_hop),
            at_least=0.90,
        ),
        Figure(task="two-hop in context", value=reader.accuracy(in_context)),
        Figure(
            task="IOI, unseen pairs of names",
            value=float(reader.correct(ioi, logits).mean()),
            at_least=0.98,
        ),
        Figure(task="IOI, mean logit difference", value=float(gap.mean()), at_least=8.0),
        Figure(task="sentiment: rating of reviews", value=reader.accuracy(reviews)),
    ]


def _chat_figures(world: World, reader: Reader) -> list[Figure]:
    questions = items.chat_questions(world, _rng("chat"), 20)
    requests = sentence_items.requests(world)
    refused = reader.logits(requests).argmax(-1) == reader.word_id("sorry")
    harmful = np.array([item.label == "harmful" for item in requests])
    return [
        Figure(task="chat answers", value=reader.accuracy(questions), at_least=0.98),
        Figure(task="harmful requests refused", value=float(refused[harmful].mean())),
        Figure(task="harmless requests refused", value=float(refused[~harmful].mean())),
    ]


def _head_figures(world: World, reader: Reader) -> list[Figure]:
    tokens = heads.repeated_words(world, reader, _rng("induction"), 64)
    scores = heads.head_scores(heads.patterns(reader, tokens))
    costs = heads.ablations(reader, tokens)
    whole = heads.copy_accuracy(reader, tokens)
    ranked = sorted(costs, key=lambda head: -scores["induction"][head])
    previous = max(costs, key=lambda head: float(scores["previous"][head]))
    both = whole - heads.ablated_accuracy(reader, tokens, ranked[:2])

    def name(head: heads.Head) -> str:
        return f"head {head[0]}.{head[1]}"

    return [
        Figure(
            task="induction, first repeat of 20 random words",
            value=heads.copy_accuracy(reader, tokens, repeat=1),
        ),
        Figure(task="induction, second repeat", value=whole, at_least=0.97),
        Figure(
            task=f"induction score of {name(ranked[0])}, the best",
            value=float(scores["induction"][ranked[0]]),
        ),
        Figure(
            task=f"induction score of {name(ranked[1])}, the next",
            value=float(scores["induction"][ranked[1]]),
        ),
        Figure(
            task=f"previous-token score of {name(previous)}, the best",
            value=float(scores["previous"][previous]),
            at_least=0.5,
        ),
        Figure(task=f"second repeat lost without {name(ranked[0])}", value=costs[ranked[0]]),
        Figure(
            task=f"second repeat lost without {name(ranked[0])} and {name(ranked[1])}",
            value=both,
            at_least=0.6,
        ),
        Figure(task=f"second repeat lost without {name(previous)}", value=costs[previous]),
        Figure(
            task="second repeat lost without the median head",
            value=float(np.median(list(costs.values()))),
            at_most=0.05,
        ),
    ]


def _vector_figures(world: World, reader: Reader) -> list[Figure]:
    found = vectors.function_vectors(world, reader, _rng("vectors"))
    raised = [after - before for before, after in found.values()]
    return [
        Figure(
            task="zero-shot with the function vector of block 3",
            value=float(np.mean([after for _, after in found.values()])),
        ),
        Figure(
            task="relations (of 21) that the vector raises by .5 or more",
            value=float(sum(gain >= 0.5 for gain in raised)),
        ),
    ]


def _lens_figures(world: World, reader: Reader) -> list[Figure]:
    two_hop = sentence_items.two_hop(world, _rng("two hop"))
    bridges = np.array([reader.word_id(item.label) for item in two_hop])
    best = min(
        float(np.median(vectors.ranks(reader.logits(two_hop, layer=layer), bridges)))
        for layer in range(len(reader.layers))
    )
    # The card says that the bridge stays hidden; a model that shows it needs another card.
    return [
        Figure(task="two-hop: best median rank of the bridge country", value=best, at_least=1.0)
    ]
