"""Ablation: what a model loses without a head, an attention or an MLP.

What the site holds is replaced by nothing (`zero`), by its mean over prompts (`mean`), or by what
it holds in another prompt (`resample`). Zero takes the activation furthest from what later layers
are used to; a mean keeps what is the same in every prompt; a resampled value is a real activation
that says nothing about this prompt. A pattern has no mean over tokens, since each has other keys to
attend to, so its mean is over prompts of as many tokens, query by query and key by key. Sources:
Olsson et al. (2022) for zero; Wang et al. (2022) for means; Chan et al. (2022), "Causal scrubbing",
for resampling.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import mlx.core as mx

from mlux.engine import HookedModel, HookWrapper, sites
from mlux.engine.arrays import numbers
from mlux.engine.passes import Hook
from mlux.engine.trials import MEMORY
from mlux.methods.edits import HEAD_SITES, Row, SiteName, Source, edits_of, layers_with, path_of
from mlux.methods.scores import answer_logprob, answer_rank, kl_divergence, logit_diff
from mlux.methods.sweeps import sweep_edits

Head = tuple[int, int]
"""(layer, head)."""
Kind = Literal["zero", "mean", "resample"]


class Ablated(NamedTuple):
    """What is left without something.

    Attributes:
        row: What is replaced.
        loss: -log p(answer) in nats.
        logit_diff: logit(answer) - logit(wrong answer); None without a wrong answer.
        kl: KL(unedited prediction ‖ ablated prediction) in nats.
        accuracy: 1 where the answer is on top, else 0.
    """

    row: Row
    loss: float
    logit_diff: float | None
    kl: float
    accuracy: float


def ablation(
    model: HookedModel,
    ids: Sequence[int],
    edits: Sequence[Row],
    *,
    source: Sequence[int] | Source,
    answer: int,
    wrong_answer: int | None = None,
    memory: int = MEMORY,
) -> Iterator[Ablated]:
    """Replaces one row of edits at a time and reads the prediction at the last position.

    Args:
        model: The model.
        ids: The prompt.
        edits: What to ablate, one row each.
        source: What comes in its place: `zeros`, `means`, one of `mean_patterns`, or the token ids
            of another prompt of as many tokens.
        answer: The answer's token.
        wrong_answer: The token to tell it apart from.
        memory: Bytes that it may hold at once beside the model.

    Example:
        >>> from mlux import HookedModel
        >>> from mlux.methods.edits import Edit
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids = model.tokenize("dog cat horse walk dog cat horse")
        >>> edits = [(Edit(site="head", layer=2, head=0), Edit(site="head", layer=2, head=3))]
        >>> (lost,) = ablation(model, ids, edits, source=zeros(edits), answer=ids[4])
        >>> lost.accuracy  # without its induction heads it cannot repeat
        0.0

    Yields:
        What each row leaves, in the order of their first layers.

    Raises:
        PromptError: If the other prompt has another length.
        ParameterError: If one row alone needs more memory.
    """
    for part in sweep_edits(model, ids, edits, source=source, memory=memory):
        loss = numbers(-answer_logprob(part.logits, answer))
        kl = numbers(kl_divergence(part.base, part.logits))
        rank = numbers(answer_rank(part.logits, answer))
        apart: list[float | None] = [None] * len(part.rows)
        if wrong_answer is not None:
            apart = numbers(logit_diff(part.logits, answer, wrong_answer))
        for i, row in enumerate(part.rows):
            yield Ablated(row, loss[i], apart[i], kl[i], float(rank[i] == 0))


def zeros(edits: Iterable[Row]) -> Source:
    """The source of zero ablation: zeros at the path of every edit.

    Example:
        >>> from mlux.methods.edits import Edit
        >>> zeros([Edit(site="mlp_out", layer=1)])["model.layers.1.mlp"].shape
        (1, 1, 1)
    """
    places = {edit.path: edit.site for row in edits for edit in edits_of(row)}
    return {
        path: mx.zeros((1,) * (4 if site in HEAD_SITES else 3)) for path, site in places.items()
    }


def means(
    model: HookedModel, prompts: Iterable[Sequence[int]], wanted: Sequence[SiteName]
) -> Source:
    """The source of mean ablation: the mean over all tokens of some prompts but their first.

    The first token is left out because models park attention there, and its activations are like
    no other's. Patterns have means of their own: `mean_patterns`.

    Returns:
        Path → [1, n_heads, 1, d_head] for sites of heads, [1, 1, d_model] for the others, float32.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> found = means(model, [model.tokenize("mary lives in")], ["head"])
        >>> found["model.layers.0.self_attn.z"].shape
        (1, 4, 1, 32)

    Raises:
        ValueError: If a pattern is wanted.
    """
    if "pattern" in wanted:
        raise ValueError("patterns have no mean over tokens; mean_patterns has one over prompts")
    paths = [path_of(site, layer) for site in wanted for layer in layers_with(model, site)]
    sums: dict[str, mx.array] = {}
    count = 0
    for ids in prompts:
        first = min(1, len(ids) - 1)
        _, cache = model.run_with_cache(mx.array([list(ids)]), hooks=paths)
        for path in paths:
            total = mx.sum(cache[path][..., first:, :].astype(mx.float32), axis=-2, keepdims=True)
            sums[path] = sums[path] + total if path in sums else total
        count += len(ids) - first
        mx.eval(sums)
    return {path: total / count for path, total in sums.items()}


def mean_patterns(model: HookedModel, prompts: Iterable[Sequence[int]]) -> dict[int, Source]:
    """The sources of mean ablation of patterns: means over the prompts of as many tokens.

    Returns:
        Number of tokens → path → [1, n_heads, query, key], float32. A mean pattern looks ahead no
        more than a pattern does, and its rows have the sums of a pattern's. A number that only one
        prompt has is missing: that mean would be the prompt's own.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> prompts = [model.tokenize(f"{name} lives in") for name in ("mary", "john")]
        >>> mean_patterns(model, prompts)[4]["model.layers.0.self_attn.pattern"].shape
        (1, 4, 4, 4)
    """
    alike: dict[int, list[Sequence[int]]] = {}
    for ids in prompts:
        alike.setdefault(len(ids), []).append(ids)
    paths = [path_of("pattern", layer) for layer in layers_with(model, "pattern")]
    found: dict[int, Source] = {}
    for length, rows in alike.items():
        if len(set(map(tuple, rows))) < 2:
            continue
        sums: dict[str, mx.array] = {}
        for ids in rows:
            _, cache = model.run_with_cache(mx.array([list(ids)]), hooks=paths)
            sums = {path: sums[path] + cache[path] if sums else cache[path] for path in paths}
            mx.eval(sums)
        found[length] = {path: total / len(rows) for path, total in sums.items()}
    return found


def zero_heads(heads: Iterable[Head]) -> list[tuple[str, Hook]]:
    """Hooks that set the z of each of these heads to zero.

    Example:
        >>> [path for path, _ in zero_heads([(2, 0), (2, 3)])]
        ['model.layers.2.self_attn.head.0', 'model.layers.2.self_attn.head.3']
    """

    def silence(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return mx.zeros_like(output)

    return [(sites.head(layer, head), silence) for layer, head in heads]


def logits_without(model: HookedModel, tokens: mx.array, heads: Iterable[Head]) -> mx.array:
    """Logits [batch, seq, vocab_size] with the given heads zero-ablated.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> logits_without(model, model.to_batch("mary lives in").tokens, [(2, 0)]).shape
        (1, 4, 1466)
    """
    return model.run_with_hooks(tokens, hooks=zero_heads(heads))
