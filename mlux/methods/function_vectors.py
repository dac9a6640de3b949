"""Function vectors: a few heads carry, at the last token of a few-shot prompt, which task it is.

Definitions of Todd et al. (2024), "Function Vectors in Large Language Models". For a task t with
few-shot prompts P_t, and a head j of layer l that outputs a_lj at the last token:

    mean output      ā_lj^t = mean of a_lj(p) over p in P_t
    indirect effect  CIE_lj(p̃) = P(y | p̃, a_lj := ā_lj^t) − P(y | p̃), p̃ a corrupted prompt of t
    average          AIE_lj = mean of CIE_lj(p̃) over tasks and their corrupted prompts
    function vector  v_t = Σ of ā_lj^t over the heads (l, j) of largest AIE

v_t is added to the residual stream after a layer, at the last token of a prompt without examples.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx

from mlux.engine import HookedModel, HookWrapper, sites
from mlux.engine.arrays import numbers
from mlux.engine.batching import TokenBatch
from mlux.engine.last_token import LastToken, can_share
from mlux.engine.passes import Hook
from mlux.engine.trials import MEMORY
from mlux.errors import ParameterError
from mlux.methods.ablation import Head
from mlux.methods.budget import batches_in_budget
from mlux.methods.scores import answer_logprob

SHORT = 8
"""Up to so many tokens, reading what comes before the last one once takes longer than it saves."""

ByLayer = Mapping[int, mx.array]
"""Layer → an array whose axis before the last, or last, is the head."""


def indirect_effects(
    model: HookedModel,
    ids: Sequence[int],
    means: ByLayer,
    answer: int,
    *,
    memory: int = MEMORY,
) -> dict[int, list[float]]:
    r"""What putting each head's mean output into a corrupted prompt does to the answer.

    The prompt is read once up to its last token. Then the last token runs in as many rows as there
    are heads, each with another head replaced, and is compared with its row of an unedited run.

    Args:
        model: The model.
        ids: Token ids of the corrupted prompt.
        means: Layer → mean z of its heads over few-shot prompts of the task, [n_heads, d_head].
        answer: The answer's token id.
        memory: Bytes that it may hold at once beside the model.

    Returns:
        Layer → for each head the answer's probability with the mean output, minus without.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids = model.tokenize("hot → cold\nbig →")
        >>> small = model.tokenize("small")[-1]
        >>> len(indirect_effects(model, ids, {2: mx.zeros((4, 32))}, small)[2])
        4
    """
    heads = [(layer, head) for layer, mean in means.items() for head in range(mean.shape[0])]

    def run(last: LastToken, chunk: Sequence[Head], rows: int) -> mx.array:
        """The answer's probability [rows], each row with another head replaced."""
        probability = mx.exp(answer_logprob(last.run(_replacements(chunk, means, rows)), answer))
        mx.eval(probability)
        return probability

    def trial(rows: int) -> object:
        last = LastToken(model, ids, rows=rows)
        return last, run(last, [], rows), run(last, heads[:1] * rows, rows)

    rows, _ = batches_in_budget(
        model,
        trial,
        key=("last token", len(ids)),
        budget=memory,
        groups=[len(heads)],
        seq=len(ids),
        computed=1 if can_share(model) else None,
    )
    last = LastToken(model, ids, rows=rows)
    before = run(last, [], rows)
    effects: dict[int, list[float]] = {layer: [] for layer in means}
    for start in range(0, len(heads), rows):
        chunk = heads[start : start + rows]
        gained = numbers(run(last, chunk, rows) - before)
        for (layer, _), gain in zip(chunk, gained, strict=False):
            effects[layer].append(gain)
    return effects


def _replacements(heads: Sequence[Head], means: ByLayer, rows: int) -> list[tuple[str, Hook]]:
    """Hooks that put one head's mean at the last token, for each row another head."""
    hooks = []
    for layer in dict.fromkeys(layer for layer, _ in heads):
        of_row = mx.array([head if own == layer else -1 for own, head in heads])
        of_row = mx.concatenate([of_row, mx.full((rows - len(heads),), -1, dtype=of_row.dtype)])
        n_heads = means[layer].shape[0]
        mine = of_row[:, None] == mx.arange(n_heads)[None]  # [rows, n_heads]
        hooks.append((sites.tap(layer, "z"), _at_last(mine[:, :, None], means[layer])))
    return hooks


def _at_last(mask: mx.array, value: mx.array) -> Hook:
    def replace(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        changed = mx.where(mask, value.astype(output.dtype), output[..., -1, :])
        return mx.concatenate([output[..., :-1, :], changed[..., None, :]], axis=-2)

    return replace


def top_heads(effects: Mapping[int, Sequence[float]], count: int) -> list[Head]:
    """The heads of largest average indirect effect, the largest first.

    Args:
        effects: Layer → AIE of its heads.
        count: How many.

    Example:
        >>> top_heads({0: [0.1, 0.3], 4: [0.2, 0.0]}, 2)
        [(0, 1), (4, 0)]

    Raises:
        ParameterError: If the model has fewer heads.
    """
    heads = [(layer, head) for layer, row in effects.items() for head in range(len(row))]
    if not 1 <= count <= len(heads):
        raise ParameterError(f"n_heads is {count}; this model has {len(heads)} heads.")
    return sorted(heads, key=lambda place: (-effects[place[0]][place[1]], place))[:count]


def function_vector(added: ByLayer, heads: Sequence[Head]) -> mx.array:
    """The sum of mean head outputs in the residual stream, [d_model] float32.

    Args:
        added: Layer → what each of its heads adds on average, [n_heads, d_model].
        heads: Which heads.

    Example:
        >>> added = {0: mx.ones((2, 8)), 3: mx.ones((2, 8))}
        >>> function_vector(added, [(0, 1), (3, 0)]).tolist()[:2]
        [2.0, 2.0]
    """
    total = sum((added[layer][head] for layer, head in heads), start=mx.array(0.0))
    mx.eval(total)
    return total


def logits_with_vectors(
    model: HookedModel, batch: TokenBatch, vectors: mx.array, layers: Sequence[int] | None = None
) -> Iterator[tuple[int | None, mx.array]]:
    """What a model predicts with a vector added after one layer, at the last token of each row.

    What comes before the last token is read once, where the prompts are equally long and the
    model's cache can be shared.

    Args:
        model: The model.
        batch: The prompts.
        vectors: [batch, d_model], one for each row.
        layers: Where to add, one layer after the other; by default every layer.

    Yields:
        First None and the logits [batch, vocab_size] at each row's last token without a vector,
        then each layer and the logits with it, evaluated.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> batch = model.to_batch("big →")
        >>> changed = logits_with_vectors(model, batch, mx.zeros((1, 128)), layers=[2])
        >>> [(layer, logits.shape) for layer, logits in changed]
        [(None, (1, 1466)), (2, (1, 1466))]
    """
    layers = range(len(model.layers)) if layers is None else layers
    rows, seq = batch.tokens.shape
    equal = bool(mx.all(batch.last == seq - 1))
    if equal and seq > SHORT and can_share(model):
        runs = LastToken(model, batch.tokens, rows=rows)
        yield None, runs.run()
        for layer in layers:
            yield layer, runs.run([(sites.resid_post(layer), _adding(vectors[:, None]))])
        return
    paths = [sites.resid_pre(layer) for layer in layers]
    before, cache = model.run_with_cache(batch.tokens, hooks=paths, positions=batch.last)
    yield None, before[:, 0]
    here = mx.arange(seq)[None] == batch.last[:, None]  # [batch, seq]
    add = _adding(mx.where(here[..., None], vectors[:, None], 0))
    for layer in layers:
        logits, _ = model.run_from(
            layer,
            cache[sites.resid_pre(layer)],
            hooks=[(sites.resid_post(layer), add)],
            positions=batch.last,
            tokens=batch.tokens,
        )
        mx.eval(logits)
        yield layer, logits[:, 0]


def _adding(added: mx.array) -> Hook:
    def add(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return output + added.astype(output.dtype)

    return add
