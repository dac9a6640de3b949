"""Silence induction heads beyond the second, so that ablations have a clear answer.

Some trainings end with three heads that can each do induction alone; ablating any two of them
then costs little (.51 of second-repeat accuracy in the shipped training, .998 after pruning).
"""

import random
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np

from tools.demo_model import heads
from tools.demo_model.export import export
from tools.demo_model.heads import Head
from tools.demo_model.network import Params, Shape
from tools.demo_model.reader import open_folder
from tools.demo_model.world import World

KEPT = 2
INDUCTION_SCORE = 0.5


def redundant_heads(params: Params, world: World, words: list[str], shape: Shape) -> list[Head]:
    """Heads whose induction score is above a half, without the best two; best first."""
    with tempfile.TemporaryDirectory() as scratch:
        export(params, words, shape, Path(scratch))
        reader = open_folder(Path(scratch))
        tokens = heads.repeated_words(world, reader, random.Random("pruning"), 64)
        scores = heads.head_scores(heads.patterns(reader, tokens))["induction"]
    doing_it = [(int(layer), int(head)) for layer, head in np.argwhere(scores > INDUCTION_SCORE)]
    return sorted(doing_it, key=lambda head: -scores[head])[KEPT:]


def silence(params: Params, silenced: list[Head], shape: Shape) -> Params:
    """Weights with the queries of these heads, and what reads their `z`, set to zero."""
    pruned = dict(params)
    owner = mx.arange(shape.n_heads * shape.d_head) // shape.d_head
    for layer, head in silenced:
        at = f"model.layers.{layer}.self_attn."
        mine = owner == head
        pruned[at + "o_proj.weight"] = mx.where(mine, 0.0, pruned[at + "o_proj.weight"])
        pruned[at + "q_proj.weight"] = mx.where(mine[:, None], 0.0, pruned[at + "q_proj.weight"])
    return pruned
