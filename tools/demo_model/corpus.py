"""Mix documents, pack them into rows, and turn rows into arrays."""

import random
from collections.abc import Iterator

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from tools.demo_model import documents as kinds
from tools.demo_model.chat import chat
from tools.demo_model.documents import MAX_TOKENS, Document, Writer
from tools.demo_model.tokenizer import BOS, EOS
from tools.demo_model.world import World

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

# Shares are relative. With .09 of two-hop in context one trial in two learned it
# by half only (.55); with .16 nearly all learned it wholly.
MIXTURE: tuple[tuple[Writer, float], ...] = (
    (kinds.few_shot, 0.37),
    (kinds.facts, 0.16),
    (chat, 0.12),
    (kinds.two_hop, 0.09),
    (kinds.two_hop_in_context, 0.16),
    (kinds.induction, 0.08),
    (kinds.ioi, 0.06),
    (kinds.person, 0.05),
    (kinds.review, 0.05),
    (kinds.misc, 0.02),
)
ROW = 72
WAITING = 12


def write_document(world: World, rng: random.Random) -> Document:
    """One document of the mixture, between <bos> and <eos>."""
    writers, shares = zip(*MIXTURE, strict=True)
    while True:
        document: Document = rng.choices(writers, shares)[0](world, rng)
        if len(document) <= MAX_TOKENS:
            return [(BOS, 0.0), *document, (EOS, 0.0)]


def write_rows(world: World, rng: random.Random) -> Iterator[list[Document]]:
    """Rows of whole documents, at most `ROW` tokens each, without end.

    A few documents wait; each row starts with the oldest and takes what still fits, which
    fills .94 of the tokens where taking them in order fills .76.
    """
    waiting = [write_document(world, rng) for _ in range(WAITING)]
    while True:
        row: list[Document] = []
        room = ROW
        while (fits := next((d for d in waiting if len(d) <= room), None)) is not None:
            waiting.remove(fits)
            row.append(fits)
            room -= len(fits)
            waiting.append(write_document(world, rng))
        yield row


def write_batches(
    world: World, words: list[str], *, seed: int, rows: int, scored: int
) -> Iterator[dict[str, mx.array]]:
    """Endless batches for `network.weighted_loss`, the same ones for the same seed.

    `scored` is the fixed number of positions whose loss is computed, so that a compiled step
    is traced once; unused places have weight 0, and what does not fit is dropped.
    """
    rng = random.Random(f"{seed} corpus")
    ids = {word: index for index, word in enumerate(words)}
    source = write_rows(world, rng)
    while True:
        tokens, segments, weights = lay_out([next(source) for _ in range(rows)], ids)
        where = np.flatnonzero(weights)
        if len(where) > scored:
            where = np.array(rng.sample(list(where), scored))
        unused = scored - len(where)
        yield {
            "tokens": mx.array(tokens),
            "segments": mx.array(segments),
            # The position before a word predicts it; <bos>, the first word, has weight 0.
            "where": mx.array(np.pad(where - 1, (0, unused)).astype(np.int32)),
            "target": mx.array(np.pad(tokens.flat[where], (0, unused))),
            "weight": mx.array(np.pad(weights.flat[where], (0, unused))),
        }


def lay_out(rows: list[list[Document]], ids: dict[str, int]) -> tuple[Ints, Ints, Floats]:
    """Token ids, number of the document in its row (-1 for padding), and weights: `[rows, ROW]`."""
    tokens = np.zeros((len(rows), ROW), dtype=np.int32)
    segments = np.full((len(rows), ROW), -1, dtype=np.int32)
    weights = np.zeros((len(rows), ROW), dtype=np.float32)
    for row, row_documents in enumerate(rows):
        position = 0
        for number, document in enumerate(row_documents):
            end = position + len(document)
            tokens[row, position:end] = [ids[word] for word, _ in document]
            weights[row, position:end] = [weight for _, weight in document]
            segments[row, position:end] = number
            position = end
    return tokens, segments, weights
