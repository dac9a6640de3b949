"""What looking costs: mlux against the bare mlx-lm model, in time and in memory.

    python benchmarks/engine_overhead.py [REPEATS]

On the built-in model and on a random Llama of 12 layers and 40 million parameters, 8 rows of 64
tokens. The ways of running take turns; a ratio is the median over the turns of that turn's time to
its bare time. Allowed are 5 % over the bare pass plus the time to write the kept bytes to fresh
memory, and as memory the kept bytes and 10 %; `bare again` shows how far noise alone goes, and that
much is forgiven. The lens has to do with one forward pass: a second would make it 2.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from random_llama import random_llama

from mlux.engine import HookedModel, sites  # before MLX, which binds its BLAS at once
from mlux.engine.batching import TokenBatch
from mlux.methods.lens import logit_lens

import mlx.core as mx  # isort: skip

BATCH, LENGTH = 8, 64


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of running the model.

    Attributes:
        run: Runs it, all results evaluated, and returns what it keeps.
        allowed: Its time in units of a bare pass, without that for what it keeps.
    """

    run: Callable[[], Sequence[mx.array]]
    allowed: float = 1.05


def ways_of(model: HookedModel) -> dict[str, Way]:
    """The ways to compare, `bare` first."""
    blocks = range(len(model.layers))
    tokens = mx.random.randint(0, model.config["vocab_size"], (BATCH, LENGTH))
    batch = TokenBatch(tokens=tokens, lengths=(LENGTH,) * BATCH)
    residuals = [sites.resid_post(layer) for layer in blocks]
    patterns = [sites.tap(layer, "pattern") for layer in blocks]

    def bare() -> Sequence[mx.array]:
        mx.eval(model.model(tokens))
        return []

    def no_hooks() -> Sequence[mx.array]:
        model.forward(tokens)
        return []

    def look(inputs: tuple[Any, ...], output: mx.array, wrapper: object) -> None:
        return None

    def hook_every_block() -> Sequence[mx.array]:
        model.run_with_hooks(tokens, hooks=[(path, look) for path in residuals])
        return []

    def capture(paths: Sequence[str] | None) -> Callable[[], Sequence[mx.array]]:
        return lambda: list(model.run_with_cache(tokens, hooks=paths)[1].values())

    def lens() -> Sequence[mx.array]:
        last = batch.last[:, None]
        for _ in logit_lens(model, batch, answers=[1] * BATCH, positions=last, top_k=5):
            pass
        return []

    return {
        "bare": Way(run=bare),
        "bare again": Way(run=bare),
        "no hook": Way(run=no_hooks),
        "a hook on every block": Way(run=hook_every_block),
        "residual stream kept": Way(run=capture(residuals)),
        "default sites kept": Way(run=capture(None)),
        "all patterns kept": Way(run=capture(patterns)),
        "lens, last position": Way(run=lens, allowed=1.5),
    }


def milliseconds(run: Callable[[], object], repeats: int = 5) -> float:
    """The median time of a call, after one that warms up."""
    run()
    return statistics.median(timed(run) for _ in range(repeats))


def timed(run: Callable[[], object]) -> float:
    """The time of one call, in milliseconds."""
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def to_write(n_bytes: int) -> float:
    """Milliseconds to write so many bytes to fresh memory."""

    def write() -> None:
        mx.clear_cache()
        mx.eval(mx.zeros(n_bytes // 4) + 1.0)

    return milliseconds(write) if n_bytes else 0.0


def peak_over_start(run: Callable[[], object]) -> int:
    """The most bytes that a call holds at once, over what was held before; the least of three."""
    peaks = []
    for _ in range(3):  # how many temporaries meet depends on the scheduler
        gc.collect()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        run()
        peaks.append(mx.get_peak_memory() - before)
    return min(peaks)


def measure(name: str, model: HookedModel, repeats: int) -> bool:
    """Prints a line for each way; whether all keep to what is allowed."""
    ways = ways_of(model)
    kept = {way: sum(array.nbytes for array in ways[way].run()) for way in ways}  # warms up too
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats):
        order = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
        for way in order:
            times[way].append(timed(ways[way].run))
    bare = statistics.median(times["bare"])
    bare_peak = peak_over_start(ways["bare"].run)
    print(f"{name}: bare pass {bare:.1f} ms, {bare_peak / 2**20:.1f} MiB")
    print(f"  {'':24}{'time':>7}{'allowed':>9}{'kept MiB':>10}{'memory MiB':>12}{'allowed':>9}")
    ratios = {
        way: statistics.median(
            mine / its for mine, its in zip(times[way], times["bare"], strict=True)
        )
        for way in ways
    }
    noise = abs(ratios["bare again"] - 1)
    fine = True
    for way, spec in ways.items():
        ratio = ratios[way]
        allowed = spec.allowed + noise + to_write(kept[way]) / bare
        memory = peak_over_start(spec.run) - bare_peak
        held = memory <= 1.1 * kept[way] + 2**16 or not kept[way]
        fine &= ratio <= allowed and held
        print(
            f"  {way:24}{ratio:7.3f}{allowed:9.3f}{kept[way] / 2**20:10.1f}"
            f"{memory / 2**20:12.1f}{1.1 * kept[way] / 2**20:9.1f}"
            f"{'' if ratio <= allowed else '  too slow'}{'' if held else '  too large'}"
        )
    return fine


def main(repeats: int = 20) -> int:
    """Measures both models; 1 if one costs too much."""
    models = {"demo": HookedModel.from_pretrained("demo"), "random llama": random_llama()}
    fine = [measure(name, model, repeats) for name, model in models.items()]
    return int(not all(fine))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
