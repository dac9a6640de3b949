"""What an experiment is handed: a batch of trials, each one prompt, all under one condition."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx

from mlux.engine.batching import TokenBatch, answer_token, encode_prompt, pad
from mlux.engine.model import HookedModel
from mlux.errors import PromptError
from mlux.prompts import Prompt

MEMORY = 1 << 30
"""Bytes that a method may use for activations where nobody says otherwise."""


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """A prompt in the token ids of one model; a role that the prompt lacks is None.

    Attributes:
        ids: The clean prompt.
        corrupted: The corrupted prompt.
        answer: The first token of the answer.
        wrong_answer: The first token of the wrong answer.
    """

    prompt: Prompt
    ids: tuple[int, ...]
    corrupted: tuple[int, ...] | None
    answer: int | None
    wrong_answer: int | None


def encode(model: HookedModel, prompt: Prompt) -> EncodedPrompt:
    """A prompt in the token ids of a model.

    Raises:
        PromptError: If it is empty, longer than the model's context, not in its vocabulary, or its
            answer starts with no token of its own.
    """
    tokenizer = model.tokenizer
    roles = {
        role: tuple(encode_prompt(tokenizer, prompt, role=role))
        for role in ("text", "corrupted")
        if getattr(prompt, role) is not None
    }
    limit, vocab_size = model.config["context_length"], model.config["vocab_size"]
    for ids in roles.values():
        if not ids:
            raise PromptError(f"The prompt {prompt.text!r} has no tokens.")
        if limit is not None and len(ids) > limit:
            raise PromptError(
                f"The prompt {prompt.text[:40]!r}… has {len(ids)} tokens; "
                f"the context of this model is {limit}."
            )
        if max(ids) >= vocab_size:
            raise PromptError(
                f"The prompt {prompt.text[:40]!r} has token {max(ids)}; "
                f"this model knows tokens 0 to {vocab_size - 1}."
            )
    return EncodedPrompt(
        prompt=prompt,
        ids=roles["text"],
        corrupted=roles.get("corrupted"),
        answer=_first_token(model, prompt, "answer"),
        wrong_answer=_first_token(model, prompt, "wrong_answer"),
    )


def _first_token(model: HookedModel, prompt: Prompt, role: str) -> int | None:
    if getattr(prompt, role) is None:
        return None
    return answer_token(model.tokenizer, prompt, role=role)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One prompt under one condition: the unit that is stored, resumed and paired."""

    number: int
    encoded: EncodedPrompt


@dataclass(frozen=True)
class PromptBatch:
    """Trials that run together.

    Attributes:
        trials: The trials, in the rows' order. Iterating over the batch gives them.
        condition: What they are run under.
        fitted: What the experiment's `fit` learned; None without one.
        seed: Of everything random in these trials that does not come from MLX's own generator;
            the same whatever was run before.
        memory: Bytes that a method may use for activations beside the model.
    """

    trials: Sequence[Trial]
    condition: Mapping[str, str]
    fitted: Any = None
    seed: int = 0
    memory: int = MEMORY

    def __iter__(self) -> Iterator[Trial]:
        """The trials in the rows' order."""
        return iter(self.trials)

    def __len__(self) -> int:
        """How many trials."""
        return len(self.trials)

    @cached_property
    def clean(self) -> TokenBatch:
        """The clean prompts, right-padded."""
        return pad([trial.encoded.ids for trial in self.trials])

    def positions(self, where: str) -> mx.array:
        """[batch, n] positions of each row: `last`, or `all` for a batch of equal lengths.

        Raises:
            PromptError: If `all` is asked of rows of unequal length.
        """
        if where == "last":
            return self.clean.last[:, None]
        if len(set(self.clean.lengths)) > 1:
            raise PromptError("Every position needs prompts of equal length in a batch.")
        seq = self.clean.tokens.shape[1]
        return mx.broadcast_to(mx.arange(seq)[None], (len(self), seq))
