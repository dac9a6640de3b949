"""Where in a prompt's tokens a part of its text lies, with any tokenizer.

Found in what the tokens decode to, not in what the text encodes to: a part is often cut otherwise
alone than in its sentence, and a chat template puts text around it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from mlux.engine.trials import EncodedPrompt
from mlux.errors import PromptError

Span = tuple[int, int]
"""The first position, and one past the last."""


def subject_span(tokenizer: Any, encoded: EncodedPrompt, *, first: bool = False) -> Span:
    """The positions of a prompt's subject; see `text_span`.

    Example:
        >>> from mlux import HookedModel
        >>> from mlux.engine.trials import encode
        >>> from mlux.prompts import Prompt
        >>> model = HookedModel.from_pretrained("demo")
        >>> prompt = Prompt(text="the capital of france is", subject="france")
        >>> subject_span(model.tokenizer, encode(model, prompt))
        (4, 5)

    Raises:
        PromptError: If the prompt has no subject, or its tokens do not say it.
    """
    subject = encoded.prompt.subject
    if subject is None:
        raise PromptError(f"The prompt {encoded.prompt.text!r} has no subject.")
    return text_span(tokenizer, encoded.ids, subject, first=first)


def text_span(tokenizer: Any, ids: Sequence[int], part: str, *, first: bool = False) -> Span:
    """The positions where tokens say something: where it begins, and one past its last token.

    Args:
        tokenizer: The model's tokenizer.
        ids: The tokens of a prompt.
        part: What they say: words of the prompt.
        first: The first place where it is said; by default the last, which a question is about.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids = model.tokenize("helen lives in angola . diana lives in ghana . helen lives in")
        >>> (text_span(model.tokenizer, ids, "helen", first=True),
        ...  text_span(model.tokenizer, ids, "helen lives"))
        ((1, 2), (11, 13))

    Raises:
        PromptError: If they do not say it.
    """
    said = _counter(tokenizer, ids, _plain(part))
    size = len(ids)
    counts = [said(0, stop) for stop in range(size + 1)]
    wanted = min(1, counts[size]) if first else counts[size]
    if not wanted:
        raise PromptError(f"{part!r} is not in the prompt {tokenizer.decode(list(ids))!r}.")
    # A token more may make it another word: `go` becomes `goes`.
    stop = next(
        stop
        for stop in range(1, size + 1)
        if min(counts[stop], counts[min(stop + 1, size)]) >= wanted
    )
    start = next(start for start in range(stop - 1, -1, -1) if said(start, stop))
    return start, stop


def _counter(tokenizer: Any, ids: Sequence[int], subject: str) -> Callable[[int, int], int]:
    """fn(start, stop): how often these tokens say the subject, as a word if they ever do."""

    def text(start: int, stop: int) -> str:
        return _plain(tokenizer.decode(list(ids[start:stop])))

    pattern = re.compile(rf"(?<!\w){re.escape(subject)}(?!\w)")
    if not pattern.search(text(0, len(ids))):  # writing without spaces has no such words
        pattern = re.compile(re.escape(subject))
    return lambda start, stop: len(pattern.findall(text(start, stop)))


def _plain(text: str) -> str:
    """Text as tokenizers agree on it: many fold case and add or drop white space."""
    return " ".join(text.split()).casefold()
