"""Two classes of prompts that a direction is learned from, dealt into folds.

What steers a prompt is learned from the other folds, so that no prompt is steered by what was
learned from itself.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.batching import answer_token, encode_prompt
from mlux.engine.sums import log_sum_exp
from mlux.errors import ParameterError
from mlux.prompts import Prompt


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Prompts of two classes, as token ids, and the fold that each belongs to.

    Attributes:
        rows: Token ids of every labelled prompt, up to where the classes part.
        signs: 1 for the positive class, -1 for the negative.
        folds: The fold of each.
        positive: Tokens that follow the prompts of the positive class, and of no other.
        negative: The same of the negative class.
    """

    rows: Sequence[Sequence[int]]
    signs: Sequence[int]
    folds: Sequence[int]
    positive: Sequence[int]
    negative: Sequence[int]

    def outside(self, fold: int) -> list[int]:
        """The numbers of the prompts that belong to other folds."""
        return [number for number, own in enumerate(self.folds) if own != fold]


def before_subject(prompt: Prompt) -> Prompt:
    """A prompt up to its subject, which becomes its answer; as it is without one to cut off.

    There the classes are not told yet and the model is about to say which it is.

    Example:
        >>> before_subject(Prompt(text="the story was great .", subject="great")).text
        'the story was'
    """
    if prompt.subject is None or prompt.template != "raw" or prompt.token_ids is not None:
        return prompt
    text = prompt.text.partition(prompt.subject)[0].rstrip()
    if not text or text == prompt.text:
        return prompt
    return replace(prompt, text=text, answer=prompt.subject)


def learn_contrast(
    model: HookedModel, prompts: Sequence[Prompt], labels: tuple[str, str], folds: int, seed: int
) -> tuple[Contrast, list[int]]:
    """The contrast between the prompts of two labels, and the fold of every prompt.

    Args:
        model: The model.
        prompts: Those of the two labels, and perhaps others, which only get a fold.
        labels: The positive and the negative label.
        folds: How many folds.
        seed: Of the dealing.

    Raises:
        ParameterError: If there are fewer prompts of a label than folds.

    Example:
        >>> from mlux import prompts
        >>> model = HookedModel.from_pretrained("demo")
        >>> reviews = [before_subject(p) for p in prompts.load("reviews:8").prompts]
        >>> contrast, dealt = learn_contrast(model, reviews, ("positive", "negative"), 2, seed=0)
        >>> len(contrast.rows), sorted(dealt)
        (8, [0, 0, 0, 0, 1, 1, 1, 1])
    """
    dealt = deal([prompt.label for prompt in prompts], folds, seed)
    chosen = [number for number, prompt in enumerate(prompts) if prompt.label in labels]
    follows: tuple[set[int], set[int]] = (set(), set())
    for label in labels:
        of_label = [prompt for prompt in prompts if prompt.label == label]
        if len(of_label) < folds:
            raise ParameterError(
                f"{len(of_label)} prompts have the label {label!r}; {folds} folds need at least "
                f"{folds}. The prompts' labels: "
                f"{', '.join(sorted({str(prompt.label) for prompt in prompts}))}."
            )
        follows[labels.index(label)].update(
            answer_token(model.tokenizer, prompt) for prompt in of_label if prompt.answer
        )
    contrast = Contrast(
        rows=[encode_prompt(model.tokenizer, prompts[number]) for number in chosen],
        signs=[1 if prompts[number].label == labels[0] else -1 for number in chosen],
        folds=[dealt[number] for number in chosen],
        positive=sorted(follows[0] - follows[1]),
        negative=sorted(follows[1] - follows[0]),
    )
    return contrast, dealt


def deal(labels: Sequence[str | None], folds: int, seed: int) -> list[int]:
    """A fold for each prompt, at random but each label evenly.

    Example:
        >>> sorted(deal(["a", "a", "b", "b"], folds=2, seed=0)[:2])
        [0, 1]
    """
    dealt = [0] * len(labels)
    generator = random.Random(seed)
    for label in sorted(set(labels), key=str):
        of_label = [number for number, own in enumerate(labels) if own == label]
        generator.shuffle(of_label)
        for place, number in enumerate(of_label):
            dealt[number] = place % folds
    return dealt


def contrast_logit_diff(
    logits: mx.array, positive: Sequence[int], negative: Sequence[int]
) -> mx.array:
    """Log Σ exp over the positive class's tokens, minus that over the negative's, [rows] float32.

    With one token on each side it is their logit difference; its logistic function is the
    probability of the positive class's tokens among both.

    Example:
        >>> contrast_logit_diff(mx.array([[1.0, 3.0, 9.0]]), [1], [0]).tolist()
        [2.0]
    """
    sides = [log_sum_exp(logits[:, mx.array(list(side))]) for side in (positive, negative)]
    return sides[0] - sides[1]
