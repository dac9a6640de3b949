"""Whether a text is still language: how surprised the model is by it, and how much it repeats.

Distinct-n: Li et al. (2016), "A diversity-promoting objective function". Repetition: seq-rep-n of
Welleck et al. (2020), "Neural text generation with unlikelihood training".
"""

from collections.abc import Sequence

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.arrays import numbers
from mlux.engine.batching import pad
from mlux.methods.residuals import in_batches
from mlux.methods.scores import log_probabilities, logit_diff, scored_logits

ROWS = 8
"""Texts that one pass scores: it keeps the logits of every position."""


def continuation_losses(
    model: HookedModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
) -> list[float]:
    """The mean -log p of each continuation's tokens after its prompt, in nats.

    Its exponential is the perplexity.

    Args:
        model: The model, unsteered.
        prompts: Token ids of each prompt.
        continuations: Token ids of what followed it, at least one.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> prompt = model.tokenize("the capital of france is")
        >>> right, wrong = (model.tokenize(city, add_bos=False) for city in ("paris", "rome"))
        >>> losses = continuation_losses(model, [prompt, prompt], [right, wrong])
        >>> losses[0] < 0.1 < losses[1]
        True
    """
    losses: list[float] = []
    for start in range(0, len(prompts), ROWS):
        pairs = list(zip(prompts, continuations, strict=True))[start : start + ROWS]
        batch = pad([[*prompt, *continuation] for prompt, continuation in pairs])
        logprobs = log_probabilities(model.forward(batch.tokens)[:, :-1])
        chosen = mx.take_along_axis(logprobs, batch.tokens[:, 1:, None], axis=-1)[..., 0]
        for row, (prompt, continuation) in enumerate(pairs):
            end = len(prompt) + len(continuation) - 1
            losses.append(-numbers(mx.mean(chosen[row, len(prompt) - 1 : end])))
    return losses


def distinct(tokens: Sequence[int], n: int) -> float:
    """Distinct n-grams as a share of all; 1 for a text that is shorter than n.

    Example:
        >>> distinct([1, 2, 1, 2], 1), distinct([1, 2, 3], 2)
        (0.5, 1.0)
    """
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(tokens: Sequence[int], n: int = 4) -> float:
    """The share of n-grams that came before: 1 - distinct-n (seq-rep-n).

    Example:
        >>> repetition([7, 7, 7, 7, 7, 7])
        0.6666666666666667
    """
    return 1.0 - distinct(tokens, n)


def judged(model: HookedModel, texts: Sequence[str], yes: int, no: int) -> list[float]:
    """What the model itself says of texts: logit(yes) - logit(no) after each.

    Args:
        model: The model, unsteered.
        texts: Each with the question behind it, as in `review : the food was great . rating :`.
        yes: Token id of one answer.
        no: Of the other.

    Example:
        >>> model = HookedModel.from_pretrained("demo")
        >>> good, bad = model.tokenize("good bad", add_bos=False)
        >>> text = "review : the food was great . rating :"
        >>> judged(model, [text], good, bad)[0] > 5
        True
    """
    found: list[float] = []
    for batch in in_batches(model, texts):
        logits = scored_logits(model, batch.tokens, batch.last)
        found += numbers(logit_diff(logits, yes, no))
    return found
