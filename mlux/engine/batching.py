"""Texts to token ids, and rows of unequal length to one right-padded batch.

Right padding is exact for a causal model without any mask: no real position can see the padding.
So positions are always addressed per row (`last`), never by a bare -1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlux.errors import PromptError
from mlux.prompts import Prompt

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "model_max_length",
)
"""Where configurations keep the longest sequence that the model was made for."""


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Right-padded token ids.

    Attributes:
        tokens: [batch, seq] int32.
        lengths: The true length of each row.
    """

    tokens: mx.array
    lengths: tuple[int, ...]

    @property
    def last(self) -> mx.array:
        """The index of each row's last real token, [batch]."""
        return mx.array([length - 1 for length in self.lengths])

    def row_ids(self, row: int) -> list[int]:
        """The token ids of one row without its padding."""
        ids: list[int] = self.tokens[row, : self.lengths[row]].tolist()  # type: ignore[assignment] # of a 1-d array
        return ids


def pad(rows: Sequence[Sequence[int]]) -> TokenBatch:
    """A batch of token-id rows, padded on the right with id 0.

    Raises:
        PromptError: If a row is empty or there are none.
    """
    if not rows or not all(rows):
        raise PromptError("A prompt is empty: it has no tokens.")
    longest = max(map(len, rows))
    padded = [[*row, *[0] * (longest - len(row))] for row in rows]
    return TokenBatch(tokens=mx.array(padded, dtype=mx.int32), lengths=tuple(map(len, rows)))


def context_length(config: Mapping[str, Any]) -> int | None:
    """The longest sequence that a model's configuration allows; None if it does not say."""
    for scope in (config, config.get("text_config") or {}):
        lengths = [int(scope[key]) for key in _CONTEXT_KEYS if isinstance(scope.get(key), int)]
        if lengths:
            return max(lengths)
    return None


def encode_text(tokenizer: Any, text: str, *, add_bos: bool = True) -> list[int]:
    """The token ids of a raw text, after the special tokens that the tokenizer begins it with."""
    bare: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if not add_bos:
        return bare
    ids: list[int] = tokenizer.encode(text, add_special_tokens=True)
    # Some tokenizers end a text with a special token too; a prompt is there to be continued.
    while bare and ids[-1] != bare[-1]:
        ids.pop()
    return ids


def encode_prompt(tokenizer: Any, prompt: Prompt, *, role: str = "text") -> list[int]:
    """The exact token ids that a prompt is run as.

    Args:
        tokenizer: The model's tokenizer.
        prompt: The prompt.
        role: `text` or `corrupted`.

    Raises:
        PromptError: If the prompt is a chat message and the tokenizer has no chat template.
    """
    if role == "text" and prompt.token_ids is not None:
        return list(prompt.token_ids)
    text = getattr(prompt, role)
    if prompt.template == "chat":
        return _encode_chat(tokenizer, text)
    return encode_text(tokenizer, text)


def _encode_chat(tokenizer: Any, text: str) -> list[int]:
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError(f"This model has no chat template, which the prompt {text!r} needs.")
    # The template writes its own special tokens; adding them again would double the BOS.
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return encode_text(tokenizer, rendered, add_bos=False)


def answer_token(tokenizer: Any, prompt: Prompt, *, role: str = "answer") -> int:
    """The first token of a prompt's answer, as the model would have to continue the prompt.

    Args:
        tokenizer: The model's tokenizer.
        prompt: The prompt.
        role: `answer` or `wrong_answer`.

    Raises:
        PromptError: If the text and its answer share a token, so that no token starts the answer.
    """
    answer = getattr(prompt, role)
    if prompt.template == "chat":
        return encode_text(tokenizer, answer, add_bos=False)[0]
    spaced = prompt.text[-1:].isspace() or answer[:1].isspace()
    start = encode_text(tokenizer, prompt.text)
    whole = encode_text(tokenizer, prompt.text + ("" if spaced else " ") + answer)
    if whole[: len(start)] != start or len(whole) == len(start):
        raise PromptError(
            f"The {role.replace('_', ' ')} {answer!r} does not begin with a token of its own "
            f"after {prompt.text[-40:]!r}. A space between them belongs to the answer."
        )
    return whole[len(start)]
