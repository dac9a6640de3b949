"""Causal mediation: how much of what tells two prompts apart goes through one place.

With y(prompt, m) = logit(answer) - logit(wrong answer) at the last token of a run in which the
mediator holds m, and s, t what it holds in the source and in the target prompt:

    total effect    = y(source, s) - y(target, t)
    indirect effect = y(target, s) - y(target, t)    the prompt stays, only the mediator changes
    direct effect   = y(source, t) - y(target, t)    the prompt changes, the mediator stays

A mediator is the residual stream after a block, the output of an attention or MLP, a head, or a
group of an MLP's neurons. Source: Vig et al. (2020), "Investigating gender bias in language models
using causal mediation analysis"; they compare probabilities as a ratio, which is a difference of
logits before the exponential.
"""

# First, so that the optimised BLAS is there before MLX.
from mlux.engine import HookedModel, HookWrapper, sites

# isort: split
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx

from mlux.engine.arrays import integers, numbers
from mlux.engine.batching import answer_token
from mlux.errors import ParameterError, PromptError
from mlux.methods.neurons import last_map
from mlux.methods.neurons import neurons as all_neurons
from mlux.prompts import Prompt

Mediator = Literal["resid_post", "attn_out", "mlp_out", "head", "neurons"]


@dataclass(frozen=True, kw_only=True)
class Mediation:
    """The logit difference in the source run, the target run, and with the mediator exchanged.

    Attributes:
        answer: The token that the source prompt is to favour.
        wrong_answer: The token that the target prompt is to favour.
        source: logit(answer) − logit(wrong answer) after the source prompt.
        target: The same after the target prompt.
        patched: The same after the target prompt with the source's activation.
        top_token: What the patched run predicts.
        held: The same after the source prompt with the target's activation.
    """

    answer: str
    wrong_answer: str
    source: float
    target: float
    patched: float
    top_token: str
    held: float

    @property
    def total_effect(self) -> float:
        """What changing the prompt does."""
        return self.source - self.target

    @property
    def indirect_effect(self) -> float:
        """What changing only the patched activation does."""
        return self.patched - self.target

    @property
    def direct_effect(self) -> float:
        """What changing the prompt does while the activation stays as it was."""
        return self.held - self.target

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
    mediator: Mediator = "resid_post",
    head: int | None = None,
    neurons: Sequence[int] | None = None,
) -> Mediation:
    """Patches one mediator of a block from one prompt into another, and back.

    Args:
        hooked: The model.
        source_prompt: Where the activation comes from.
        target_prompt: What runs with it.
        patch_layer: The block.
        answer: What the source prompt favours; by default its most probable next token.
        wrong_answer: What the target prompt favours; by default its most probable next token.
        position: Which token of both prompts, counted from the end: −1 is the last.
        mediator: What is patched: `resid_post`, `attn_out`, `mlp_out`, `head` or `neurons`.
        head: Which head, for `head`.
        neurons: Which neurons of the MLP, for `neurons`.

    Raises:
        ParameterError: If a prompt is too short, both favour the same token, or the mediator and
            what it needs do not fit.

    Example:
        >>> hooked = HookedModel.from_pretrained("demo")
        >>> prompts = ("the capital of france is", "the capital of peru is")
        >>> found = causal_mediation(hooked, *prompts, 5, answer="paris", wrong_answer="lima")
        >>> abs(found.patched - found.source) < 1e-3  # after the last block nothing else is left
        True
    """
    _require_fit(mediator, head, neurons)
    source, target = hooked.to_batch(source_prompt).tokens, hooked.to_batch(target_prompt).tokens
    shortest = min(source.shape[1], target.shape[1])
    if not -shortest <= position < 0:
        raise ParameterError(f"position is {position}; expected from {-shortest} to -1.")
    source_logits, target_logits = hooked.forward(source), hooked.forward(target)
    place = _Place(hooked, patch_layer, mediator, position, head, neurons)
    patched_logits = place.run(target, place.read(source))
    held_logits = place.run(source, place.read(target))
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
        held=difference(held_logits),
    )


def _require_fit(mediator: Mediator, head: int | None, chosen: Sequence[int] | None) -> None:
    if (mediator == "head") != (head is not None):
        raise ParameterError("The mediator head needs head=, and no other mediator takes one.")
    if (mediator == "neurons") != (chosen is not None):
        raise ParameterError("The mediator neurons needs neurons=, and no other takes any.")


@dataclass(frozen=True)
class _Place:
    """A mediator at one position from the end, to be read in one run and put into another."""

    hooked: HookedModel
    layer: int
    mediator: Mediator
    position: int
    head: int | None
    chosen: Sequence[int] | None

    def path(self) -> str:
        match self.mediator:
            case "resid_post":
                return sites.resid_post(self.layer)
            case "attn_out":
                return sites.attn_out(self.layer)
            case "mlp_out":
                return sites.mlp_out(self.layer)
            case "head":
                assert self.head is not None
                return sites.head(self.layer, self.head)
            case "neurons":
                return last_map(self.hooked, self.layer)

    def read(self, tokens: mx.array) -> mx.array:
        """[1, 1, width]."""
        if self.mediator == "neurons":
            ids = integers(tokens[0])
            value = all_neurons(self.hooked, ids, [self.layer])[self.layer]
        else:
            _, cache = self.hooked.run_with_cache(tokens, hooks=[self.path()])
            value = cache[self.path()]
        return value[:, self.position, None]

    def run(self, tokens: mx.array, value: mx.array) -> mx.array:
        """Logits with the value in its place."""
        here = (mx.arange(tokens.shape[1]) == tokens.shape[1] + self.position)[:, None]
        if self.mediator != "neurons":

            def patch(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
                return mx.where(here, value, output)

            return self.hooked.run_with_hooks(tokens, hooks=[(self.path(), patch)])
        wanted = set(self.chosen or ())
        chosen = mx.array([number in wanted for number in range(value.shape[-1])])

        def put(
            args: tuple[Any, ...], kwargs: dict[str, Any], wrapper: HookWrapper
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return (mx.where(here & chosen, value, args[0]), *args[1:]), kwargs

        return self.hooked.run_with_hooks(tokens, pre_hooks=[(self.path(), put)])


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
