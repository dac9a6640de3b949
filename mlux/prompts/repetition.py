"""Random words or tokens that are repeated, where nothing but induction can predict.

Source: Olsson et al. (2022), "In-context Learning and Induction Heads".
"""

import random
from collections.abc import Sequence
from typing import Any

from mlux.errors import PromptError
from mlux.prompts.values import Prompt, PromptSet


def induction(
    words: Sequence[str],
    period: int = 20,
    n: int = 64,
    seed: int = 0,
    known: Sequence[int] | None = None,
) -> PromptSet:
    """Random words and the beginning of the same words again, cut before a word of the repetition.

    Each prompt has the roles text, corrupted (the first part are other words), answer (the word
    that followed before), wrong_answer (another word of the first part), subject (the last word)
    and label (how many words of the repetition are there).

    Args:
        words: To draw from, at least twice the period.
        period: Words before they repeat.
        n: How many prompts.
        seed: Of what is drawn.
        known: How many words of the repetition may be there; by default a quarter, half and all
            but one of the period.

    Example:
        >>> prompt = induction("a b c d e f g h".split(), period=4, n=1, known=[2]).prompts[0]
        >>> words = prompt.text.split()
        >>> words[4:] == words[:2], prompt.answer == words[2]
        (True, True)

    Raises:
        PromptError: If there are too few words, or nothing would be repeated.
    """
    different = list(dict.fromkeys(words))
    lengths = list(known or sorted({max(1, period // 4), max(1, period // 2), period - 1}))
    if len(different) < 2 * period:
        raise PromptError(
            f"A period of {period} needs {2 * period} different words; there are {len(different)}."
        )
    if n < 1 or not all(1 <= length < period for length in lengths):
        raise PromptError(
            f"Cannot make {n} prompts of a period of {period} with {lengths} words known: expected "
            "at least one prompt, and 1 to period - 1 words."
        )
    rng = random.Random(f"{seed} induction")
    prompts = []
    for number in range(n):
        drawn = rng.sample(different, 2 * period)
        first, unrelated = drawn[:period], drawn[period:]
        length = lengths[number % len(lengths)]
        prompts.append(
            Prompt(
                text=" ".join(first + first[:length]),
                corrupted=" ".join(unrelated + first[:length]),
                answer=first[length],
                wrong_answer=rng.choice([word for word in first if word != first[length]]),
                subject=first[length - 1],
                label=f"after {length} words",
            )
        )
    return PromptSet(
        name=f"induction seed {seed}",
        prompts=tuple(prompts),
        description=f"{period} random words and the beginning of their repetition",
    )


def repeated_tokens(
    tokenizer: Any,
    period: int = 20,
    n: int = 16,
    seed: int = 0,
    vocab_size: int | None = None,
) -> PromptSet:
    """Sequences of different random words of a vocabulary, each repeated once, after the BOS.

    Args:
        tokenizer: The model's tokenizer; its tokens that are words by themselves are drawn.
        period: Tokens before they repeat.
        n: How many sequences.
        seed: Of what is drawn.
        vocab_size: How many tokens the model knows, if fewer than the tokenizer.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids = repeated_tokens(model.tokenizer, period=5, n=1).prompts[0].token_ids
        >>> len(ids), ids[1:6] == ids[6:]
        (11, True)

    Raises:
        PromptError: If the vocabulary has fewer words than the period.
    """
    words = _word_tokens(tokenizer, vocab_size)
    if len(words) < period:
        raise PromptError(
            f"The period is {period}, but this vocabulary has {len(words)} words to draw from."
        )
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    rng = random.Random(seed)
    prompts = []
    for _ in range(n):
        stretch = rng.sample(words, period)
        ids = (*start, *stretch, *stretch)
        prompts.append(Prompt(text=tokenizer.decode(list(ids)), token_ids=ids))
    return PromptSet(
        name=f"repeated tokens seed {seed}",
        prompts=tuple(prompts),
        description=f"{period} random tokens of the vocabulary, repeated once",
    )


def _word_tokens(tokenizer: Any, vocab_size: int | None) -> list[int]:
    """The tokens that are words by themselves."""
    special = set(tokenizer.all_special_ids)
    size = len(tokenizer.get_vocab())
    return [
        token
        for token in range(size if vocab_size is None else min(size, vocab_size))
        if token not in special and tokenizer.decode([token]).strip().isalpha()
    ]
