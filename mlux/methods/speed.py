"""How fast a model runs on this machine, from three short passes: what estimates are made of.

A pass through the blocks takes a part that each call pays once (reading the weights, starting
every operation) and a part for each token, so two passes of different size tell them apart. Making
logits is timed by itself: with a large vocabulary it outweighs the blocks.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.methods.scores import log_probabilities

TOKENS = 128
"""In the larger pass; more tell nothing new."""
POSITIONS = 16
"""Whose logits are timed."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds that a model takes here.

    Attributes:
        call: A pass through the blocks, however small.
        token: Each token in it, more than that.
        position: The log-probabilities of the whole vocabulary at one position.
    """

    call: float
    token: float
    position: float


def measure_speed(model: HookedModel, ids: Sequence[int]) -> Speed:
    """Times a prompt alone, the same prompt in several rows, and the head.

    Args:
        model: The model.
        ids: Token ids of a prompt of usual length.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> measure_speed(model, model.tokenize("mary lives in")).token > 0
        True
    """
    n, rows = len(ids), max(2, TOKENS // len(ids))
    resid = mx.zeros((POSITIONS, 1, model.config["d_model"]), dtype=model.resid_dtype)

    def run(rows: int) -> mx.array:
        tokens = mx.broadcast_to(mx.array(list(ids), dtype=mx.int32), (rows, n))
        last = mx.full((rows,), n - 1, dtype=mx.int32)
        return model.run_with_hooks(tokens, positions=last)

    position = _seconds(lambda: log_probabilities(model.unembed(resid)[:, 0])) / POSITIONS
    alone, together = (_seconds(partial(run, count)) for count in (1, rows))
    token = (together - alone) / (rows - 1) - position
    # Noise can make one smaller than it is; neither can be less than nothing.
    token = max(token, 0.1 * together / rows) / n
    return Speed(call=max(alone - n * token - position, 0.0), token=token, position=position)


def _seconds(run: Callable[[], mx.array]) -> float:
    """What a computation takes that has been done once before, or what is lazy would be timed."""
    mx.eval(run())
    begun = time.perf_counter()
    mx.eval(run())
    return time.perf_counter() - begun
