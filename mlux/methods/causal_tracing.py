"""Causal tracing: where a model recalls a fact about a subject.

The prompt runs with Gaussian noise on the embeddings of its subject, several samples side by side,
so that the answer is lost; then activations of the clean run are restored, one token at a time and
a window of layers at a time, and what comes back of the answer is their indirect effect:

    total effect    = p(answer | clean) - p(answer | noised)
    indirect effect = p(answer | noised, restored) - p(answer | noised)

each averaged over the samples. The noise has ν times the standard deviation of the embeddings. The
average indirect effect (AIE) is the mean over prompts. Source: Meng et al. (2022), "Locating and
editing factual associations in GPT", section 2.1 and appendix B.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlux.engine import HookedModel, HookWrapper
from mlux.engine.arrays import numbers, to_numpy
from mlux.engine.passes import Hook
from mlux.engine.trials import MEMORY
from mlux.methods.budget import batches_in_budget
from mlux.methods.edits import Edit, Row, by_first_layer, edits_of, layers_with
from mlux.methods.scores import answer_logprob
from mlux.methods.sweeps import BasePass, Kept, base_passes, inputs_of, sweep

RestoredSite = Literal["resid_post", "mlp_out", "attn_out"]
EMBEDDING = "model.embed_tokens"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What noise takes and what restoring gives back, as probabilities of the answer.

    Attributes:
        clean: Without noise.
        noised: With noise, averaged over the samples.
        layers: The layers that were restored, each the middle of its window.
        restored: [n_layers, seq], averaged over the samples.
    """

    clean: float
    noised: float
    layers: tuple[int, ...]
    restored: tuple[tuple[float, ...], ...]

    @property
    def total_effect(self) -> float:
        """What the noise takes."""
        return self.clean - self.noised

    @property
    def indirect_effect(self) -> tuple[tuple[float, ...], ...]:
        """What restoring gives back, [n_layers, seq]."""
        return tuple(tuple(value - self.noised for value in row) for row in self.restored)


def embedding_std(model: HookedModel, spans: Iterable[Sequence[int]]) -> float:
    """The standard deviation of the embeddings of some tokens over all their entries.

    Args:
        model: The model.
        spans: Token ids, such as those of the subjects of all prompts.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> embedding_std(model, [[5, 6, 7]]) > 0
        True
    """
    ids = [token for span in spans for token in span]
    _, cache = model.run_with_cache(mx.array([[token] for token in ids]), hooks=[EMBEDDING])
    return float(np.std(to_numpy(cache[EMBEDDING])))


def causal_trace(
    model: HookedModel,
    ids: Sequence[int],
    *,
    answer: int,
    noised: Sequence[int],
    sigma: float,
    site: RestoredSite = "resid_post",
    window: int = 1,
    samples: int = 10,
    seed: int = 0,
    memory: int = MEMORY,
) -> Trace:
    """Noises some tokens of a prompt and restores every layer and token in turn.

    Args:
        model: The model.
        ids: Token ids of the prompt.
        answer: The answer's token.
        noised: Positions whose embeddings get noise: those of the subject.
        sigma: Standard deviation of the noise.
        site: What is restored.
        window: Layers restored at once, around each layer; fewer at the ends.
        samples: Draws of the noise.
        seed: Of the noise.
        memory: Bytes that it may hold at once beside the model.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids = model.tokenize("the capital of france is")
        >>> (paris,) = model.tokenize("paris", add_bos=False)
        >>> trace = causal_trace(model, ids, answer=paris, noised=[4], sigma=1.0, samples=2)
        >>> trace.total_effect > 0.5
        True
        >>> round(trace.restored[5][5], 3) == round(trace.clean, 3)  # the last layer at the end
        True

    Raises:
        ParameterError: If one row alone needs more memory.
    """
    layers = layers_with(model, site)
    rows_of = [
        _window(layer, layers, window, site, place) for layer in layers for place in range(len(ids))
    ]
    draws = _draws(model, len(noised), sigma, samples, seed)
    kept = sorted({edit.path for row in rows_of for edit in edits_of(row)})
    starts = [layer for layer, _ in by_first_layer(rows_of)]
    at = len(ids) - 1

    def passes(rows: npt.NDArray[np.float32], **shares: int) -> tuple[BasePass, BasePass]:
        hooks = [(EMBEDDING, _plus(_noise(rows, len(ids), noised)))]
        prompts = [Kept(ids=ids, paths=inputs_of(starts), hooks=hooks), Kept(ids=ids, paths=kept)]
        base, source = base_passes(model, prompts, rows=len(rows), position=at, **shares)
        return base, source

    def trial(rows: int) -> object:
        base, clean = passes(draws[np.arange(rows) % samples])
        for _, logits in sweep(model, base, clean.cache, rows_of[:1] * rows, position=at):
            mx.eval(answer_logprob(logits, answer))
        return base, clean

    rows, lanes = batches_in_budget(
        model,
        trial,
        key=("trace", len(ids), site, window),
        budget=memory,
        groups=[samples * len(group) for _, group in by_first_layer(rows_of)],
        seq=len(ids),
    )
    together = min(samples, rows)
    # Two wide windows may be the same row, so results are told apart by their number.
    order = [number for _, row_numbers in _in_order(rows_of) for number in row_numbers]
    sums = [0.0] * len(rows_of)
    at_noise, at_clean = 0.0, 0.0
    for start in range(0, samples, together):
        some = draws[start : start + together]
        count = len(some)
        copies = max(1, rows // count)
        base, clean = passes(np.concatenate([some] * copies), lanes=lanes, memory=memory)
        at_noise += sum(_probabilities(base.logits[:count], answer))
        at_clean += sum(_probabilities(clean.logits[:count], answer))
        repeated = [rows_of[number] for number in order for _ in range(count)]
        numbered = (number for number in order for _ in range(count))
        for chunk, logits in sweep(model, base, clean.cache, repeated, position=at):
            for value in _probabilities(logits[: len(chunk)], answer):
                sums[next(numbered)] += value
        del base, clean  # or the next two would meet them
    restored = [total / samples for total in sums]
    return Trace(
        clean=at_clean / samples,
        noised=at_noise / samples,
        layers=tuple(layers),
        restored=tuple(
            tuple(restored[i * len(ids) : (i + 1) * len(ids)]) for i in range(len(layers))
        ),
    )


def _in_order(rows: Sequence[Row]) -> list[tuple[int, list[int]]]:
    """The numbers of rows in the order in which a sweep runs them."""
    by_layer: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        by_layer.setdefault(min(edit.layer for edit in edits_of(row)), []).append(number)
    return sorted(by_layer.items())


def _window(layer: int, layers: Sequence[int], window: int, site: RestoredSite, place: int) -> Row:
    # An even window reaches one layer further back, as in the paper's code.
    first = layer - window // 2
    return tuple(
        Edit(site=site, layer=other, position=place)
        for other in layers
        if first <= other < first + window
    )


def _draws(
    model: HookedModel, n_noised: int, sigma: float, samples: int, seed: int
) -> npt.NDArray[np.float32]:
    """Noise for the noised tokens, [samples, n_noised, d_model]; on the host until it is used."""
    _, cache = model.run_with_cache(mx.array([[0]]), hooks=[EMBEDDING])
    shape = (samples, n_noised, cache[EMBEDDING].shape[-1])
    return np.float32(sigma) * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _noise(draws: npt.NDArray[np.float32], seq: int, noised: Sequence[int]) -> mx.array:
    """Draws at their tokens and zeros elsewhere, [rows, seq, d_model]."""
    noise = np.zeros((draws.shape[0], seq, draws.shape[-1]), dtype=np.float32)
    noise[:, list(noised)] = draws
    return mx.array(noise)


def _plus(noise: mx.array) -> Hook:
    def add(inputs: tuple[object, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return output + noise.astype(output.dtype)

    return add


def _probabilities(logits: mx.array, answer: int) -> list[float]:
    values: list[float] = numbers(mx.exp(answer_logprob(logits, answer)))
    return values
