"""Causal mediation: how much of what tells two prompts apart goes through one place.

The target prompt runs with the residual stream of one block and position replaced by what it is in
the source prompt. The measure is logit(answer) − logit(wrong answer) at the last token. Source:
Vig et al. (2020), "Investigating gender bias in language models using causal mediation analysis".
"""

# First, so that the optimised BLAS is there before MLX.
from mlux.engine import HookedModel, HookWrapper, sites

# isort: split
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlux.engine.arrays import integers, numbers
from mlux.engine.batching import answer_token
from mlux.errors import ParameterError, PromptError
from mlux.prompts import Prompt


@dataclass(frozen=True, kw_only=True)
class Mediation:
    """The logit difference in the source run, the target run and the patched target run.

    Attributes:
        answer: The token that the source prompt is to favour.
        wrong_answer: The token that the target prompt is to favour.
        source: logit(answer) − logit(wrong answer) after the source prompt.
        target: The same after the target prompt.
        patched: The same after the target prompt with the source's activation.
        top_token: What the patched run predicts.
    """

    answer: str
    wrong_answer: str
    source: float
    target: float
    patched: float
    top_token: str

    @property
    def total_effect(self) -> float:
        """What changing the prompt does."""
        return self.source - self.target

    @property
    def indirect_effect(self) -> float:
        """What changing only the patched activation does."""
        return self.patched - self.target

    @property
    def proportion(self) -> float:
        """The indirect effect as a part of the total one."""
        return self.indirect_effect / self.total_effect


def causal_mediation(
    hooked: HookedModel,
    source_prompt: str,
    target_prompt: str,
    patch_layer: int,
    *,
    answer: str | None = None,
    wrong_answer: str | None = None,
    position: int = -1,
) -> Mediation:
    """Patches the residual stream after one block from one prompt into another.

    Args:
        hooked: The model.
        source_prompt: Where the activation comes from.
        target_prompt: What runs with it.
        patch_layer: The block.
        answer: What the source prompt favours; by default its most probable next token.
        wrong_answer: What the target prompt favours; by default its most probable next token.
        position: Which token of both prompts, counted from the end: −1 is the last.

    Raises:
        ParameterError: If a prompt is too short, or both favour the same token.

    Example:
        >>> hooked = HookedModel.from_pretrained("demo")
        >>> prompts = ("the capital of france is", "the capital of peru is")
        >>> found = causal_mediation(hooked, *prompts, 5, answer="paris", wrong_answer="lima")
        >>> abs(found.patched - found.source) < 1e-3  # after the last block nothing else is left
        True
    """
    path = sites.resid_post(patch_layer)
    source, target = hooked.to_batch(source_prompt).tokens, hooked.to_batch(target_prompt).tokens
    shortest = min(source.shape[1], target.shape[1])
    if not -shortest <= position < 0:
        raise ParameterError(f"position is {position}; expected from {-shortest} to -1.")
    source_logits, cache = hooked.run_with_cache(source, hooks=[path])
    target_logits = hooked.forward(target)
    index = target.shape[1] + position

    def patch(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        here = (mx.arange(output.shape[1]) == index)[:, None]
        return mx.where(here, cache[path][:, position, None], output)

    patched_logits = hooked.run_with_hooks(target, hooks=[(path, patch)])
    right = _token(hooked, source_prompt, answer, source_logits)
    wrong = _token(hooked, target_prompt, wrong_answer, target_logits)
    if right == wrong:
        raise ParameterError(
            f"Both prompts favour {_text(hooked, right)!r}; give an answer and a wrong_answer."
        )

    def difference(logits: mx.array) -> float:
        last = logits[0, -1].astype(mx.float32)
        value: float = numbers(last[right] - last[wrong])
        return value

    return Mediation(
        answer=_text(hooked, right),
        wrong_answer=_text(hooked, wrong),
        source=difference(source_logits),
        target=difference(target_logits),
        patched=difference(patched_logits),
        top_token=_text(hooked, integers(mx.argmax(patched_logits[0, -1]))),
    )


def _token(hooked: HookedModel, prompt: str, answer: str | None, logits: mx.array) -> int:
    if answer is None:
        top: int = integers(mx.argmax(logits[0, -1]))
        return top
    if not answer:
        raise PromptError("An answer is empty.")
    return answer_token(hooked.tokenizer, Prompt(text=prompt, answer=answer))


def _text(hooked: HookedModel, token: int) -> str:
    text: str = hooked.tokenizer.decode([token])
    return text
