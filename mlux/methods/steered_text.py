"""What was written under steering, and what it is worth: register, language, repetition."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from statistics import fmean

import mlx.core as mx

from mlux.engine import HookedModel, sites
from mlux.engine.arrays import numbers
from mlux.engine.batching import answer_token
from mlux.engine.continuation import Completion
from mlux.methods.contrast import Contrast, contrast_logit_diff
from mlux.methods.steering import create_steering_hook
from mlux.methods.steering_strength import SteeredLogits
from mlux.methods.text_quality import continuation_losses, distinct, judged, repetition
from mlux.prompts import Prompt

Columns = dict[str, list[float | None]]
"""Metric → a number for each prompt; None where there is none."""
Rows = Sequence[Sequence[int]]
"""Token ids of each prompt."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A question about a text, and two answers to it.

    Attributes:
        question: Text with `{generation}` where the generated text goes.
        positive: One answer.
        negative: The other.
    """

    question: str
    positive: str
    negative: str


def write_steered(
    model: HookedModel,
    rows: Rows,
    added: Mapping[int, mx.array],
    *,
    samples: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    stop: str,
) -> list[list[Completion]]:
    """Several texts for each prompt, with something added after blocks at every token.

    Args:
        model: The model.
        rows: The prompts.
        added: Layer → [d_model].
        samples: Texts for each prompt.
        max_tokens: The most tokens of a text.
        temperature: Of the sampling.
        seed: Of the sampling: what is drawn does not depend on what is added.
        stop: Text that ends a text; none if empty.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> rows, added = [model.tokenize("the capital of france is")], {3: mx.zeros(128)}
        >>> (texts,) = write_steered(
        ...     model, rows, added, samples=2, max_tokens=1, temperature=0.0, seed=0, stop=""
        ... )
        >>> [done.text for done in texts]
        ['paris', 'paris']
    """
    done = model.complete(
        [list(row) for row in rows for _ in range(samples)],
        hooks=[
            (sites.resid_post(layer), create_steering_hook(vector))
            for layer, vector in added.items()
        ],
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        stop=stop or (),
    )
    return [done[start : start + samples] for start in range(0, len(done), samples)]


def register(model: HookedModel, written: Sequence[Sequence[Completion]], judge: Judge) -> Columns:
    """Means over each prompt's samples of `judge_logit_diff` and of `positive_register`.

    The judge is the unsteered model: logit(positive) - logit(negative) behind the question, and
    whether that is above 0.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> judge = Judge(question="{generation} rating :", positive="good", negative="bad")
        >>> written = [model.complete(["review : the food was wonderful"], max_tokens=1)]
        >>> sorted(register(model, written, judge))
        ['judge_logit_diff', 'positive_register']
    """
    yes, no = (
        answer_token(model.tokenizer, Prompt(text=judge.question, answer=word))
        for word in (judge.positive, judge.negative)
    )
    texts = [done.text.strip() for of_prompt in written for done in of_prompt]
    diffs = iter(judged(model, [judge.question.replace("{generation}", t) for t in texts], yes, no))
    by_prompt = [[next(diffs) for _ in of_prompt] for of_prompt in written]
    return {
        "judge_logit_diff": [fmean(of_prompt) for of_prompt in by_prompt],
        "positive_register": [fmean(diff > 0 for diff in of_prompt) for of_prompt in by_prompt],
    }


def language(model: HookedModel, rows: Rows, written: Sequence[Sequence[Completion]]) -> Columns:
    """Means over each prompt's samples of the metrics of `mlux.metrics.TEXT_QUALITY`.

    None for a prompt whose samples are all empty.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> done = model.complete(["the capital of france is"], max_tokens=1)
        >>> language(model, [done[0].prompt_ids], [done])["distinct_1"]
        [1.0]
    """
    flat = [
        (number, row, done.token_ids)
        for number, (row, of_prompt) in enumerate(zip(rows, written, strict=True))
        for done in of_prompt
        if done.token_ids
    ]
    losses = continuation_losses(model, [row for _, row, _ in flat], [ids for _, _, ids in flat])
    columns: Columns = {name: [] for name in ("text_loss", "perplexity", *REPEATS)}
    for number in range(len(rows)):
        own = [place for place, (of, _, _) in enumerate(flat) if of == number]
        loss = fmean(losses[place] for place in own) if own else None
        columns["text_loss"].append(loss)
        columns["perplexity"].append(None if loss is None else exp(loss))
        for name, measure in REPEATS.items():
            columns[name].append(fmean(measure(flat[place][2]) for place in own) if own else None)
    return columns


REPEATS: dict[str, Callable[[Sequence[int]], float]] = {
    "distinct_1": lambda tokens: distinct(tokens, 1),
    "distinct_2": lambda tokens: distinct(tokens, 2),
    "repetition": repetition,
}


def at_the_end(
    model: HookedModel, contrast: Contrast, rows: Rows, added: Mapping[int, mx.array]
) -> Columns:
    """The `contrast_logit_diff` of each prompt's steered end; nothing if the contrast tells none.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> superb, awful = model.tokenize("superb awful", add_bos=False)
        >>> contrast = Contrast(rows=[], signs=[], folds=[], positive=[superb], negative=[awful])
        >>> rows = [model.tokenize("i sadly told everyone about the")]
        >>> at_the_end(model, contrast, rows, {3: mx.zeros(128)})["contrast_logit_diff"][0] < 0
        True
    """
    if not contrast.positive or not contrast.negative:
        return {}
    logits = SteeredLogits(model, rows, min(added)).under(added)
    diffs = contrast_logit_diff(logits, contrast.positive, contrast.negative)
    return {"contrast_logit_diff": numbers(diffs)}
