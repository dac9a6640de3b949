"""Prompts with roles, and the sets they come in: frozen values."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from mlux.errors import PromptError

TEMPLATES = ("raw", "chat")
"""How a prompt becomes tokens: as it stands, or as what the user of a chat says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt and its roles.

    Attributes:
        text: The clean prompt.
        corrupted: A prompt of as many tokens that breaks what the clean one shows.
        answer: The continuation of the clean prompt.
        wrong_answer: The continuation to tell it apart from.
        subject: The part of `text` that the prompt is about.
        label: A class, for probes and comparisons.
        template: `raw`, or `chat` if `text` is what the user of a chat says.
        token_ids: The exact ids to run, where the text alone does not give them.
    """

    text: str
    corrupted: str | None = None
    answer: str | None = None
    wrong_answer: str | None = None
    subject: str | None = None
    label: str | None = None
    template: str = "raw"
    token_ids: tuple[int, ...] | None = None

    @property
    def content_hash(self) -> str:
        """The SHA-256 of everything above, equal for equal prompts on every machine."""
        canonical = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSet:
    """A named, ordered list of different prompts."""

    name: str
    prompts: tuple[Prompt, ...]
    description: str = ""

    @property
    def content_hash(self) -> str:
        """The SHA-256 of the prompts in their order; the name does not enter."""
        return hashlib.sha256("".join(p.content_hash for p in self.prompts).encode()).hexdigest()

    def first(self, count: int) -> "PromptSet":
        """The first prompts, under a name that says how many.

        Raises:
            PromptError: If the set is smaller, or nothing is asked for.
        """
        if not 1 <= count <= len(self.prompts):
            raise PromptError(
                f"The prompt set {self.name!r} has {len(self.prompts)} prompts, not {count}."
            )
        return replace(self, name=f"{self.name}:{count}", prompts=self.prompts[:count])

    def require(self, roles: Sequence[str], experiment: str) -> None:
        """Raises PromptError unless every prompt has every one of these roles."""
        for number, prompt in enumerate(self.prompts, start=1):
            missing = [role for role in roles if getattr(prompt, role) is None]
            if missing:
                raise PromptError(
                    f"{experiment} needs {' and '.join(roles)} with every prompt; "
                    f"prompt {number} of {self.name!r} has no {missing[0]}."
                )
