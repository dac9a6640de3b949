"""The direction that a model refuses by: learned, chosen and judged as Arditi et al. (2024) do.

"Refusal in language models is mediated by a single direction". Candidates are differences of means
(harmful - harmless) after each block at each of the last tokens of a prompt; a validation split
chooses the one whose ablation refuses least, among those that also make harmless prompts refused
when added, and that change what the model says to harmless prompts little when ablated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import mlx.core as mx

from mlux.engine import HookedModel, sites
from mlux.engine.arrays import numbers, on_host
from mlux.engine.passes import Hook
from mlux.engine.sums import log_sum_exp
from mlux.errors import ParameterError
from mlux.methods.directions import ablate_direction, classes_differ, difference_of_means
from mlux.methods.residuals import in_batches, residuals_from_end
from mlux.methods.scores import kl_divergence, log_probabilities
from mlux.methods.steering import steering_hooks
from mlux.steps import UNKEPT, Arrays, Steps

Rows = Sequence[Sequence[int]]
"""Token ids of each prompt."""
Place = tuple[int, int]
"""(block, token counted from the end of a prompt: -1 is the last)."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A direction and what it does to the validation prompts.

    Attributes:
        layer: The block after which it was read.
        position: The token it was read at, counted from the end.
        vector: mean(harmful) - mean(harmless), [d_model] float32.
        bypass: Refusal score of each harmful prompt with the direction ablated.
        induce: Refusal score of each harmless prompt with the direction added.
        kl: KL(own prediction ‖ prediction with the direction ablated) of each harmless prompt.
    """

    layer: int
    position: int
    vector: mx.array
    bypass: Sequence[float]
    induce: Sequence[float]
    kl: Sequence[float]


def refusal_score(logits: mx.array, tokens: Sequence[int]) -> mx.array:
    """The log odds that the next token begins a refusal, [rows] float32.

    log P - log(1 - P), with P the probability of all tokens that may begin one.

    Args:
        logits: [rows, vocab_size].
        tokens: Those tokens.

    Example:
        >>> refusal_score(mx.zeros((1, 4)), [0, 1]).tolist()
        [0.0]
    """
    # Sums of logs, since P may be within rounding of 1.
    logprobs = log_probabilities(logits)
    chosen = mx.zeros((logits.shape[-1],), dtype=mx.bool_)
    chosen[mx.array(list(tokens))] = True
    refuses = log_sum_exp(mx.where(chosen, logprobs, -mx.inf))
    complies = log_sum_exp(mx.where(chosen, -mx.inf, logprobs))
    return refuses - complies


def last_logits(model: HookedModel, rows: Rows, hooks: Sequence[tuple[str, Hook]] = ()) -> mx.array:
    """Logits [prompts, vocab_size] at each prompt's last token, with hooks anywhere.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> last_logits(model, [model.tokenize("mary lives in")]).shape
        (1, 1466)
    """
    found, path = [], sites.resid_pre(0)
    for batch in in_batches(model, rows):
        _, cache = model.run_with_cache(batch.tokens, [path], positions=batch.last, lazy=True)
        logits, _ = model.run_from(
            0, cache[path], hooks=hooks, positions=batch.last, tokens=batch.tokens
        )
        found.append(logits[:, 0].astype(mx.float32))
        mx.eval(found[-1])
    return mx.concatenate(found)


def candidate_directions(
    model: HookedModel,
    harmful: Rows,
    harmless: Rows,
    layers: Sequence[int],
    positions: Sequence[int],
) -> dict[Place, mx.array]:
    """Differences of means, harmful - harmless, [d_model] float32 each.

    There is none where the two do not differ.

    Args:
        model: The model.
        harmful: Prompts that it refuses.
        harmless: Prompts that it answers.
        layers: The blocks.
        positions: Tokens counted from the end: those after the instruction, which are the same in
            every prompt.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> harmful, harmless = ([model.tokenize(f"{verb} it")] for verb in ("burn", "fix"))
        >>> sorted(candidate_directions(model, harmful, harmless, [2, 3], [-1]))
        [(2, -1), (3, -1)]
    """
    refused = residuals_from_end(model, harmful, layers, positions)
    answered = residuals_from_end(model, harmless, layers, positions)
    pairs = {
        (layer, position): (refused[layer][:, place], answered[layer][:, place])
        for layer in layers
        for place, position in enumerate(positions)
    }
    return {
        where: difference_of_means(*classes)
        for where, classes in pairs.items()
        if classes_differ(*classes)
    }


def validate(
    model: HookedModel,
    directions: Mapping[Place, mx.array],
    harmful: Rows,
    harmless: Rows,
    tokens: Sequence[int],
    steps: Steps = UNKEPT,
) -> list[Candidate]:
    """What each direction does to prompts that it was not learned from.

    Args:
        model: The model.
        directions: Place → [d_model].
        harmful: Prompts that the model refuses.
        harmless: Prompts that it answers.
        tokens: Tokens that begin a refusal.
        steps: What keeps each candidate with its scores.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> rows = [model.tokenize("mary lives in")]
        >>> found = validate(model, {(3, -1): mx.ones(128)}, rows, rows, tokens=[7])
        >>> len(found[0].bypass)
        1
    """
    own = cache(lambda: last_logits(model, harmless))

    def scores(layer: int, vector: mx.array) -> Arrays:
        ablation = ablate_direction(model, vector)
        added = last_logits(model, harmless, steering_hooks(layer, vector))
        found = {
            "bypass": refusal_score(last_logits(model, harmful, ablation), tokens),
            "induce": refusal_score(added, tokens),
            "kl": kl_divergence(own(), last_logits(model, harmless, ablation)),
        }
        return {"vector": on_host(vector)} | {name: numbers(row) for name, row in found.items()}

    candidates = []
    for (layer, position), vector in directions.items():
        found = steps.once(
            f"candidate.{layer}.{position}",
            partial(scores, layer, vector),
            partial(_said, layer, position),
        )
        rows = {name: list(map(float, found[name])) for name in ("bypass", "induce", "kl")}
        candidates.append(
            Candidate(layer=layer, position=position, vector=mx.array(found["vector"]), **rows)
        )
    return candidates


def _said(layer: int, position: int, found: Arrays) -> str:
    means = {name: _mean(found[name]) for name in ("bypass", "induce", "kl")}
    return f"direction after block {layer} at token {position}: " + ", ".join(
        f"{name} {value:.3g}" for name, value in means.items()
    )


def select(candidates: Sequence[Candidate], *, n_layers: int, most_kl: float = 0.1) -> Candidate:
    """The candidate that refuses least when ablated, of those that qualify.

    It has to make harmless prompts refused when added (mean score above 0), to keep the predictions
    on harmless prompts when ablated (mean KL up to `most_kl`), and to come from the first 80 % of
    the blocks, so that it is not only about the words to come. Source: Arditi et al. (2024), C.1.

    Args:
        candidates: What `validate` returns.
        n_layers: Blocks of the model.
        most_kl: The largest mean KL, in nats.

    Raises:
        ParameterError: If none qualifies.

    Example:
        >>> one = Candidate(
        ...     layer=3, position=-1, vector=mx.ones(4), bypass=[-2.0], induce=[3.0], kl=[0.01]
        ... )
        >>> select([one], n_layers=6).layer
        3
    """
    early = [one for one in candidates if one.layer < 0.8 * n_layers]
    inducing = [one for one in early if _mean(one.induce) > 0]
    qualified = [one for one in inducing if _mean(one.kl) <= most_kl]
    if qualified:
        return min(qualified, key=lambda one: _mean(one.bypass))
    if inducing:
        least = min(inducing, key=lambda one: _mean(one.kl))
        raise ParameterError(
            f"No direction can be ablated with a KL of at most {most_kl:g} on harmless prompts; "
            f"the least is {_mean(least.kl):.3g} (block {least.layer}, token {least.position}). "
            "Allow more."
        )
    raise ParameterError(
        "No direction of the first 80 % of the blocks makes harmless prompts refused when added. "
        "Do the two labels differ in what the model refuses, and do the refusal words fit it?"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
