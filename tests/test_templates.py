"""Prompts as a model is to be asked: task templates, chat turns, and exactly one BOS."""

from functools import cache
from string import Formatter
from typing import Any

import pytest

from mlux import templates
from mlux.engine import HookedModel
from mlux.engine.batching import chat, encode_chat, encode_prompt, encode_text
from mlux.errors import ParameterError, PromptError, UnknownNameError
from mlux.prompts import Prompt

TASKS = ("completion", "question", "few_shot", "choice")
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DROPS_SYSTEM = NO_SYSTEM.replace("{{ raise_exception('System role not supported') }}", "").replace(
    "<|user|>{{ m['content'] }}<|end|>",
    "{% if m['role'] != 'system' %}<|user|>{{ m['content'] }}<|end|>{% endif %}",
)


@cache
def demo() -> HookedModel:
    return HookedModel.from_pretrained("demo")


def text_of(ids: list[int]) -> str:
    return str(demo().tokenizer.decode(ids))


@pytest.fixture
def tokenizer() -> Any:
    """The demo's tokenizer, whose chat template a test may replace."""
    return HookedModel.from_pretrained("demo").tokenizer


def with_template(tokenizer: Any, template: str | None) -> Any:
    tokenizer._tokenizer.chat_template = template
    return tokenizer


def test_every_family_words_every_task_with_the_same_parts() -> None:
    for family, tasks in templates.PROMPT_TEMPLATES.items():
        assert set(tasks) == set(TASKS), family
        for task, template in tasks.items():
            parts = {name for _, name, _, _ in Formatter().parse(template) if name}
            of_default = templates.PROMPT_TEMPLATES["default"][task]
            assert parts == {name for _, name, _, _ in Formatter().parse(of_default) if name}


@pytest.mark.parametrize(
    ("model_type", "family"),
    [("gemma2", "gemma"), ("qwen2_moe", "qwen"), ("llama4", "llama"), ("phi3", "phi"),
     ("mamba2", "default"), ("base", "default"), ("", "default")],
)  # fmt: skip
def test_a_model_belongs_to_the_family_of_its_type(model_type: str, family: str) -> None:
    assert templates.family_of(model_type) == family


def test_a_bare_query_reaches_a_chat_model_as_a_task() -> None:
    prompt = templates.task_prompt(demo(), "completion", input="cat →", answer="cats")
    assert (prompt.template, prompt.answer) == ("chat", "cats")
    assert prompt.text.endswith("cat →")
    assert prompt.text != "cat →"
    rendered = encode_prompt(demo().tokenizer, prompt)
    assert rendered[-1] == demo().tokenizer.convert_tokens_to_ids("<|assistant|>")


def test_a_model_without_a_chat_template_continues_a_text(tokenizer: Any) -> None:
    model = HookedModel(demo().model, with_template(tokenizer, None))
    prompt = templates.task_prompt(model, "completion", input="cat →")
    assert prompt == Prompt(text="cat →")
    choice = templates.task_prompt(
        model, "choice", question="Which is cold?", options=["ice", "sun"]
    )
    assert choice.text == "Which is cold?\nA. ice\nB. sun\nAnswer:"


def test_wrong_parts_and_names_are_refused() -> None:
    with pytest.raises(ParameterError, match="takes examples and input; got input"):
        templates.render("default", "few_shot", input="x")
    with pytest.raises(UnknownNameError, match="Did you mean 'completion'"):
        templates.render("default", "completoin", input="x")
    with pytest.raises(UnknownNameError, match="Did you mean 'gemma'"):
        templates.render("gema", "completion", input="x")


def test_braces_in_a_part_stay() -> None:
    assert templates.render("base", "completion", input="{x} →") == "{x} →"


def test_a_prompt_begins_with_one_bos_and_ends_with_no_end() -> None:
    tokenizer = demo().tokenizer
    bos = tokenizer.bos_token_id
    for text in ("paris is", f"{tokenizer.bos_token}paris is"):
        ids = encode_text(tokenizer, text)
        assert ids.count(bos) == 1
        assert ids[0] == bos
        assert not set(ids) & set(tokenizer.eos_token_ids)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "paris"}], tokenize=False, add_generation_prompt=True
    )
    as_chat = encode_chat(tokenizer, chat("paris"))
    assert as_chat.count(bos) == 1
    assert encode_text(tokenizer, rendered) == as_chat


def test_a_prefilled_answer_is_continued() -> None:
    tokenizer = demo().tokenizer
    plain = encode_chat(tokenizer, chat("paris"))
    prefilled = encode_chat(tokenizer, chat("paris", prefill="the city"))
    assert prefilled[: len(plain)] == plain
    assert prefilled[len(plain) :] == encode_text(tokenizer, "the city", add_bos=False)
    prompt = Prompt(text="paris", template="chat")
    assert encode_prompt(tokenizer, prompt, prefill="the city") == prefilled


def test_a_system_turn_is_rendered_by_a_template_that_has_one() -> None:
    ids = encode_chat(demo().tokenizer, chat("paris", system="the city"))
    rendered = demo().tokenizer.apply_chat_template(
        chat("paris", system="the city"), tokenize=False, add_generation_prompt=True
    )
    assert text_of(ids) == text_of(encode_text(demo().tokenizer, rendered))


@pytest.mark.parametrize("template", [NO_SYSTEM, DROPS_SYSTEM])
def test_a_system_turn_that_a_template_lacks_goes_to_the_user(
    template: str, tokenizer: Any
) -> None:
    with_template(tokenizer, template)
    folded = encode_chat(tokenizer, chat("paris", system="the city"))
    assert folded == encode_chat(tokenizer, chat("the city\n\nparis"))


def test_turns_that_a_template_refuses_are_an_error(tokenizer: Any) -> None:
    with_template(tokenizer, "{{ raise_exception('Roles must alternate') }}")
    with pytest.raises(PromptError, match="Roles must alternate"):
        encode_chat(tokenizer, chat("paris"))
    with pytest.raises(PromptError, match="no chat template"):
        encode_chat(with_template(tokenizer, None), chat("paris"))
