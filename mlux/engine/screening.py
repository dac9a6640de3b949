"""Prompts that an experiment could not use, or not as one would think, found before it runs.

An experiment scores one token, the first of the answer. Where an answer has several, that says
something about its first token alone, which other answers may share; so it is reported, and a
person decides. A prompt that cannot be run at all, lacks a role, or is not aligned with its
corrupted form where positions are compared, can only be left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from mlux.engine.batching import answer_tokens
from mlux.engine.model import HookedModel
from mlux.engine.trials import EncodedPrompt, encode
from mlux.errors import PromptError
from mlux.prompts import Prompt, PromptSet, shipped

BadPrompts = Literal["fail", "drop", "keep"]
"""What becomes of a prompt that is reported.

`fail`: nothing runs. `drop`: the run goes without it. `keep`: like `fail`, but answers of several
tokens are no fault: their first token is scored.
"""
CHOICES: tuple[BadPrompts, ...] = get_args(BadPrompts)
SHOWN = 3
_ANSWERS = ("answer", "wrong_answer")


@dataclass(frozen=True, kw_only=True)
class Screened:
    """The prompts of a set that an experiment can use.

    Attributes:
        prompts: The set; with another name if some were dropped.
        encoded: Each of them in token ids.
        dropped: Why each of the others is not there.
        n_long_answers: How many of them have an answer of several tokens, whose first is scored.
    """

    prompts: PromptSet
    encoded: tuple[EncodedPrompt, ...]
    dropped: tuple[str, ...]
    n_long_answers: int


def screen(
    model: HookedModel,
    prompts: PromptSet,
    *,
    experiment: str,
    roles: Sequence[str],
    aligned: bool,
    bad_prompts: BadPrompts = "fail",
) -> Screened:
    """The prompts in the token ids of a model, without those that the experiment cannot use.

    Args:
        model: The model.
        prompts: The set.
        experiment: Its name, for the messages.
        roles: The roles that it needs. An answer among them has to be one token.
        aligned: Whether the corrupted prompt needs as many tokens as the clean one.
        bad_prompts: What to do about the others.

    Raises:
        PromptError: If there are some and they are not to be dropped, or none is left.
    """
    if bad_prompts not in CHOICES:
        raise PromptError(f"bad_prompts is {bad_prompts!r}; expected {', '.join(CHOICES)}.")
    if bad_prompts != "drop":
        prompts.require(roles, experiment)
    good: list[EncodedPrompt] = []
    faults: list[str] = []
    n_kept = 0
    for number, prompt in enumerate(prompts.prompts, start=1):
        try:
            encoded = _checked(model, prompt, roles, aligned)
            long_answer = _long_answer(model, prompt, roles)
            if long_answer and bad_prompts != "keep" and set(roles) & {*_ANSWERS}:
                raise PromptError(long_answer)
        except PromptError as error:
            faults.append(f"prompt {number}: {error}")
        else:
            good.append(encoded)
            n_kept += bool(long_answer)
    if faults and (bad_prompts != "drop" or not good):
        raise PromptError(_report(prompts, experiment, model, faults, keep=bad_prompts == "keep"))
    kept = prompts
    if faults:
        kept = PromptSet(
            name=f"{prompts.name} without {len(faults)} bad",
            prompts=tuple(encoded.prompt for encoded in good),
            description=prompts.description,
        )
    return Screened(prompts=kept, encoded=tuple(good), dropped=tuple(faults), n_long_answers=n_kept)


def _checked(
    model: HookedModel, prompt: Prompt, roles: Sequence[str], aligned: bool
) -> EncodedPrompt:
    missing = [role for role in roles if getattr(prompt, role) is None]
    if missing:
        raise PromptError(f"it has no {missing[0]}.")
    encoded = encode(model, prompt)
    if aligned and encoded.corrupted is not None and len(encoded.corrupted) != len(encoded.ids):
        raise PromptError(
            f"it has {len(encoded.ids)} tokens and its corrupted form {len(encoded.corrupted)}."
        )
    if encoded.answer == encoded.wrong_answer is not None and {*_ANSWERS} <= {*roles}:
        raise PromptError(
            f"{prompt.answer!r} and {prompt.wrong_answer!r} begin with the same token."
        )
    return encoded


def _long_answer(model: HookedModel, prompt: Prompt, roles: Sequence[str]) -> str | None:
    """What is to be said of an answer of several tokens; None if there is none."""
    for role in _ANSWERS:
        needed = role in roles or not {*roles} & {*_ANSWERS}
        if needed and getattr(prompt, role) is not None:
            tokens = answer_tokens(model.tokenizer, prompt, role=role)
            if len(tokens) > 1:
                first = model.tokenizer.decode(tokens[:1])
                return (
                    f"its {role.replace('_', ' ')} {getattr(prompt, role)!r} is {len(tokens)} "
                    f"tokens, of which only the first, {first!r}, would be scored."
                )
    return None


def _report(
    prompts: PromptSet, experiment: str, model: HookedModel, faults: Sequence[str], *, keep: bool
) -> str:
    """One line: how many, the first few with the reason, and what to do."""
    total = len(prompts.prompts)
    shown = " ".join(fault[0].upper() + fault[1:] for fault in faults[:SHOWN])
    more = f" And {len(faults) - SHOWN} more." if len(faults) > SHOWN else ""
    if len(faults) == total:
        advice = "None is left."
    else:
        advice = "Leave them out with --bad-prompts drop (bad_prompts='drop')."
    # Only if it helps: other faults stay faults when first tokens are scored.
    if not keep and all("tokens, of which only" in fault for fault in faults):
        advice += " Score first tokens with --bad-prompts keep."
    if not all(": it has no " in fault for fault in faults):
        advice = " ".join(filter(None, (_instead(prompts, experiment), advice)))
    return (
        f"{len(faults)} of the {total} prompts of {prompts.name!r} cannot be used by "
        f"{experiment}. {shown}{more} {advice}"
    )


def _instead(prompts: PromptSet, experiment: str) -> str:
    """What to use instead of prompts that nobody wrote for this model; empty for a person's own."""
    if prompts.name.partition(":")[0] in shipped():
        return (
            "The set was written in the words of the built-in model, --model demo. For another, "
            "give a file of your own: --prompts FILE; docs/prompts.md says how to make one."
        )
    if prompts.name.startswith(f"{experiment} seed "):
        return (
            f"{experiment} makes its prompts itself, by default in the words of the built-in "
            f"model, --model demo; its options change them, see: mlux experiments {experiment}."
        )
    return ""
