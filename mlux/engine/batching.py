"""Texts to token ids, and rows of unequal length to one right-padded batch.

Right padding is exact for a causal model without any mask: no real position can see the padding.
So positions are always addressed per row (`last`), never by a bare -1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlux.engine.arrays import integers
from mlux.errors import PromptError
from mlux.prompts import Prompt

Message = Mapping[str, str]
"""A turn of a chat: its role (system, user, assistant) and its content."""

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
    """The token ids of a raw text, after the special tokens that the tokenizer begins it with.

    A text that begins with the BOS token itself, as a rendered chat does, gets no second one.
    """
    bare: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if not add_bos or (bare and bare[0] == getattr(tokenizer, "bos_token_id", None)):
        return bare
    ids: list[int] = tokenizer.encode(text, add_special_tokens=True)
    # Some tokenizers end a text with a special token too; a prompt is there to be continued.
    while bare and ids[-1] != bare[-1]:
        ids.pop()
    return ids


def encode_prompt(
    tokenizer: Any,
    prompt: Prompt,
    *,
    role: str = "text",
    system: str | None = None,
    prefill: str | None = None,
) -> list[int]:
    """The exact token ids that a prompt is run as.

    Args:
        tokenizer: The model's tokenizer.
        prompt: The prompt.
        role: `text` or `corrupted`.
        system: For a chat, what the system says before it.
        prefill: For a chat, how the assistant's answer begins.

    Raises:
        PromptError: If the prompt is a chat message and the tokenizer has no chat template.
    """
    if role == "text" and prompt.token_ids is not None:
        return list(prompt.token_ids)
    text = getattr(prompt, role)
    if prompt.template == "chat":
        return encode_chat(tokenizer, chat(text, system=system, prefill=prefill))
    return encode_text(tokenizer, text)


def chat(text: str, *, system: str | None = None, prefill: str | None = None) -> list[Message]:
    """The turns of a chat in which the user says one thing.

    Example:
        >>> chat("Name a colour.", prefill="Blue")[-1]
        {'role': 'assistant', 'content': 'Blue'}
    """
    turns = [("system", system), ("user", text), ("assistant", prefill)]
    return [{"role": role, "content": said} for role, said in turns if said is not None]


def encode_chat(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The token ids of a chat, up to where the assistant speaks, or goes on speaking.

    If the last turn is the assistant's, it is left open: the model continues it. A system turn that
    the chat template does not have goes in front of the first user's turn.

    Raises:
        PromptError: If the tokenizer has no chat template, or the template refuses the turns.
    """
    if not getattr(tokenizer, "chat_template", None):
        said = str(messages[0].get("content"))[:40]
        raise PromptError(f"This model has no chat template, which the prompt {said!r} needs.")
    # The template writes its own special tokens; adding them again would double the BOS.
    return encode_text(tokenizer, _render(tokenizer, messages), add_bos=False)


def _render(tokenizer: Any, messages: Sequence[Message]) -> str:
    from jinja2 import TemplateError

    open_turn = messages[-1]["role"] == "assistant"
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    try:
        rendered: str = tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=not open_turn,
            continue_final_message=open_turn,
        )
    except TemplateError as error:
        if system is None:
            raise PromptError(f"The chat template refuses these turns: {error}.") from error
    else:
        if system is None or system.strip() in rendered:
            return rendered
    return _render(tokenizer, _without_system_turn(messages))


def _without_system_turn(messages: Sequence[Message]) -> list[Message]:
    system, first, *others = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *others]


def encode_any(tokenizer: Any, prompt: Any) -> tuple[list[list[int]], bool]:
    """Token ids of what people give as prompts: one row each, and whether it was a batch.

    Args:
        tokenizer: The model's tokenizer.
        prompt: A text, a `Prompt`, token ids, the turns of a chat, or a list of any of these; an
            array of token ids is [seq] or [batch, seq].

    Raises:
        PromptError: If it is something else, or a text and the model has no tokenizer.
    """
    if isinstance(prompt, mx.array):
        rows = integers(prompt if prompt.ndim == 2 else prompt[None])
        return rows, len(rows) > 1
    if _is_one(prompt):
        return [_encode_one(tokenizer, prompt)], False
    if not isinstance(prompt, Sequence) or not prompt or not all(map(_is_one, prompt)):
        raise PromptError(
            f"Cannot read a prompt from {type(prompt).__name__}: expected a text, a Prompt, token "
            "ids, the turns of a chat, or a list of these."
        )
    return [_encode_one(tokenizer, one) for one in prompt], True


def _is_one(prompt: Any) -> bool:
    if isinstance(prompt, str | Prompt):
        return True
    if not isinstance(prompt, Sequence) or not prompt:
        return False
    return all(isinstance(part, int) for part in prompt) or all(
        isinstance(part, Mapping) and {"role", "content"} <= set(part) for part in prompt
    )


def _encode_one(tokenizer: Any, prompt: Any) -> list[int]:
    if not isinstance(prompt, str | Prompt) and isinstance(prompt[0], int):
        return list(prompt)
    if tokenizer is None:
        raise PromptError("This model has no tokenizer; give token ids instead of text.")
    if isinstance(prompt, str):
        return encode_text(tokenizer, prompt)
    if isinstance(prompt, Prompt):
        return encode_prompt(tokenizer, prompt)
    return encode_chat(tokenizer, prompt)


def answer_token(tokenizer: Any, prompt: Prompt, *, role: str = "answer") -> int:
    """The first token of a prompt's answer, as the model would have to continue the prompt.

    Args:
        tokenizer: The model's tokenizer.
        prompt: The prompt.
        role: `answer` or `wrong_answer`.

    Raises:
        PromptError: If the text and its answer share a token, so that no token starts the answer.
    """
    token = answer_tokens(tokenizer, prompt, role=role)[0]
    return _known(tokenizer, token, getattr(prompt, role))


def answer_tokens(tokenizer: Any, prompt: Prompt, *, role: str = "answer") -> list[int]:
    """All tokens of a prompt's answer, as the model would have to continue the prompt.

    Args:
        tokenizer: The model's tokenizer.
        prompt: The prompt.
        role: `answer` or `wrong_answer`.

    Raises:
        PromptError: As `answer_token`.
    """
    answer = getattr(prompt, role)
    if prompt.template == "chat":
        return encode_text(tokenizer, answer, add_bos=False)
    spaced = prompt.text[-1:].isspace() or answer[:1].isspace()
    start = encode_text(tokenizer, prompt.text)
    whole = encode_text(tokenizer, prompt.text + ("" if spaced else " ") + answer)
    if whole[: len(start)] != start or len(whole) == len(start):
        raise PromptError(
            f"The {role.replace('_', ' ')} {answer!r} does not begin with a token of its own "
            f"after {prompt.text[-40:]!r}. A space between them belongs to the answer."
        )
    return whole[len(start) :]


def _known(tokenizer: Any, token: int, answer: str) -> int:
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and token == unknown:
        raise PromptError(f"The answer {answer!r} is not in this model's vocabulary.")
    return token
