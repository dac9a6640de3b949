"""The continuation of one prompt as its tokens come in: its text, and where it stops."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import mlx.core as mx

Finish = Literal["stop", "length", "context"]
"""Why a text ended: a stop, max_tokens, or the longest sequence that the model was made for."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """One generated token of a stream.

    Attributes:
        text: The text that it made certain; sometimes empty, sometimes of earlier tokens too.
        token_id: The token. The last one may be a stop token, which is not part of the text.
        logprobs: Natural logarithm of the distribution that it was drawn from, [vocab_size].
        finish_reason: None while it goes on.
    """

    text: str
    token_id: int
    logprobs: mx.array
    finish_reason: Finish | None


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What followed one prompt.

    Attributes:
        prompt_ids: The exact token ids of the prompt.
        token_ids: The generated token ids, without a stop token.
        text: Their text, up to a stop text; empty for a model without a tokenizer.
        finish_reason: Why it ended.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: Finish


@dataclass(kw_only=True)
class Continuation:
    """A text that grows token by token.

    Attributes:
        number: The prompt's row in its batch.
        prompt_ids: The token ids of the prompt.
        limit: The most tokens to take.
        at_limit: What ends it there.
        stop_ids: Tokens that end it.
        stop_texts: Texts that end it, also in the middle of a token.
        detokenizer: mlx-lm's streaming detokenizer; None without a tokenizer.
    """

    number: int
    prompt_ids: tuple[int, ...]
    limit: int
    at_limit: Finish
    stop_ids: frozenset[int]
    stop_texts: tuple[str, ...]
    detokenizer: Any
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: Finish | None = None
    _pending: str = ""

    def add(self, token: int) -> str:
        """Takes a token and returns the text that is certain not to begin a stop text."""
        if token in self.stop_ids:
            self.finish_reason = "stop"
        else:
            self.token_ids.append(token)
            if len(self.token_ids) == self.limit:
                self.finish_reason = self.at_limit
        segment = self._cut(self._decoded(token))
        self.text += segment
        return segment

    def completion(self) -> Completion:
        """The finished continuation."""
        assert self.finish_reason is not None
        return Completion(
            prompt_ids=self.prompt_ids,
            token_ids=tuple(self.token_ids),
            text=self.text,
            finish_reason=self.finish_reason,
        )

    def _decoded(self, token: int) -> str:
        if self.detokenizer is None:
            return ""
        if self.finish_reason != "stop":
            self.detokenizer.add_token(token)
        if self.finish_reason is not None:
            self.detokenizer.finalize()
        segment: str = self.detokenizer.last_segment
        return segment

    def _cut(self, new: str) -> str:
        text = self._pending + new
        found = [at for at in (text.find(stop) for stop in self.stop_texts) if at >= 0]
        if found:
            self.finish_reason = "stop"
            return text[: min(found)]
        held = 0 if self.finish_reason else _held_back(text, self.stop_texts)
        self._pending = text[len(text) - held :]
        return text[: len(text) - held]


def _held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text may begin one of the stop texts."""
    longest = max(map(len, stops), default=1) - 1
    return next(
        (
            count
            for count in range(min(longest, len(text)), 0, -1)
            if any(stop.startswith(text[-count:]) for stop in stops)
        ),
        0,
    )
