"""Common tasks worded so that a model can follow them.

A chat model that is shown only "cat →" does not know what is asked. These templates word a task for
a model's family; `task_prompt` picks the family and says whether the text is a user's turn or, for
a model without a chat template, the beginning of a text.
"""

import re
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from mlux.errors import ParameterError, UnknownNameError
from mlux.prompts import Prompt

_DEFAULT = {
    "completion": "Complete the following. Answer with only what is missing.\n\n{input}",
    "question": "{question}\n\nAnswer in as few words as possible.",
    "few_shot": (
        "Each line below follows the same rule.\n\n{examples}\n\n"
        "Apply the rule to the next line. Answer with only what is missing.\n\n{input}"
    ),
    "choice": "{question}\n\n{options}\n\nAnswer with only the letter of the right option.",
}

PROMPT_TEMPLATES: Mapping[str, Mapping[str, str]] = {
    # Chat models of unknown family.
    "default": _DEFAULT,
    # Models without a chat template continue a text.
    "base": {
        "completion": "{input}",
        "question": "Q: {question}\nA:",
        "few_shot": "{examples}\n{input}",
        "choice": "{question}\n{options}\nAnswer:",
    },
    # Gemma was tuned without system turns, on short direct requests.
    "gemma": _DEFAULT | {"completion": "Complete: {input}\n\nReply with only what is missing."},
    "llama": _DEFAULT,
    "qwen": _DEFAULT,
    "mistral": _DEFAULT,
    # Phi explains its answers unless it is told not to.
    "phi": _DEFAULT | {"question": "{question}\n\nAnswer in as few words as possible; no reasons."},
}
"""Family → task → template. A family that is not here has the templates of `default`."""


def family_of(model_type: str) -> str:
    """The family that a model's declared type belongs to, or `default`.

    Example:
        >>> family_of("gemma3_text"), family_of("qwen3_moe"), family_of("olmo2")
        ('gemma', 'qwen', 'default')
    """
    letters = re.match(r"[a-z]*", model_type.lower())
    family = letters[0] if letters else ""
    return family if family in PROMPT_TEMPLATES and family != "base" else "default"


def render(family: str, task: str, **parts: Any) -> str:
    """The text of a task.

    Args:
        family: A key of `PROMPT_TEMPLATES`.
        task: completion, question, few_shot or choice.
        **parts: What the template asks for: `input`, `question`, `examples` (text, or pairs of
            input and output) or `options` (text, or a list, which gets letters).

    Raises:
        UnknownNameError: If there is no such family or task.
        ParameterError: If a part is missing, or is not part of the task.

    Example:
        >>> print(render("base", "few_shot", examples=[("hot", "cold")], input="big →"))
        hot → cold
        big →
    """
    if family not in PROMPT_TEMPLATES:
        raise UnknownNameError("prompt family", family, PROMPT_TEMPLATES)
    if task not in PROMPT_TEMPLATES[family]:
        raise UnknownNameError("task", task, PROMPT_TEMPLATES[family])
    template = PROMPT_TEMPLATES[family][task]
    wanted = {name for _, name, _, _ in Formatter().parse(template) if name}
    if wanted != set(parts):
        raise ParameterError(
            f"The task {task!r} takes {' and '.join(sorted(wanted))}; "
            f"got {', '.join(sorted(parts)) or 'nothing'}."
        )
    return template.format(**{name: _as_text(value) for name, value in parts.items()})


def _as_text(value: str | Sequence[Any]) -> str:
    if isinstance(value, str):
        return value
    if all(isinstance(item, str) for item in value):
        return "\n".join(f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(value))
    return "\n".join(f"{pair[0]} → {pair[1]}" for pair in value)


def task_prompt(hooked: Any, task: str, *, answer: str | None = None, **parts: Any) -> Prompt:
    """A task as a prompt that this model can follow.

    Args:
        hooked: A `HookedModel`.
        task: As in `render`.
        answer: The right answer, for the prompt's role of that name.
        **parts: As in `render`.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> task_prompt(model, "completion", input="cat →", answer="cats").template
        'chat'
    """
    if not getattr(hooked.tokenizer, "chat_template", None):
        return Prompt(text=render("base", task, **parts), answer=answer)
    family = family_of(hooked.config["model_type"])
    return Prompt(text=render(family, task, **parts), answer=answer, template="chat")
