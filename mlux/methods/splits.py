"""Prompts dealt into parts at random, every label alike: to learn from, to choose on, to test."""

import random
from collections.abc import Sequence


def stratified_split(labels: Sequence[str | None], shares: Sequence[float], seed: int) -> list[int]:
    """The part of each prompt: 0 for the first share of each label, 1 for the second, and so on.

    Args:
        labels: Of each prompt.
        shares: Of each part but the last, which gets the rest.
        seed: Of the dealing.

    Example:
        >>> sorted(stratified_split(["a"] * 4 + ["b"] * 4, [0.5, 0.25], seed=0))
        [0, 0, 0, 0, 1, 1, 2, 2]
    """
    parts = [len(shares)] * len(labels)
    generator = random.Random(seed)
    for label in sorted(set(labels), key=str):
        own = [number for number, of in enumerate(labels) if of == label]
        generator.shuffle(own)
        start = 0
        for part, share in enumerate(shares):
            end = start + round(share * len(own))
            parts = [part if number in own[start:end] else old for number, old in enumerate(parts)]
            start = end
    return parts
