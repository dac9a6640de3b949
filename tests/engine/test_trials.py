"""Prompts in token ids: answers, chats, lengths and positions."""

from typing import Any

import pytest

from mlux.engine import HookedModel
from mlux.engine.batching import answer_token, context_length, encode_text, pad
from mlux.engine.trials import PromptBatch, Trial, encode
from mlux.errors import PromptError
from mlux.prompts import Prompt


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return HookedModel.from_pretrained("demo")


class Merging:
    """A tokenizer that keeps the space with the word after it, as BPE does, by splitting there."""

    bos_token_id = 0

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        words = text.replace(" ", "\n ").split("\n")
        return [0] * add_special_tokens + [sum(map(ord, word)) for word in words]


def test_an_answer_is_joined_by_one_space_unless_it_brings_its_own() -> None:
    for answer in ("paris", " paris"):
        found = answer_token(Merging(), Prompt(text="france is", answer=answer))
        assert found == sum(map(ord, " paris"))


def test_an_answer_that_melts_into_the_text_is_refused() -> None:
    with pytest.raises(PromptError, match=r"A space between them belongs to the answer"):
        answer_token(Merging(), Prompt(text="france is ", answer="paris"))


def test_a_prompt_never_ends_with_a_token_that_the_tokenizer_appends() -> None:
    class Closing(Merging):
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            ids = super().encode(text, add_special_tokens)
            return [*ids, 1] if add_special_tokens else ids

    assert encode_text(Closing(), "a b") == Merging().encode("a b")


def test_roles_become_tokens(model: HookedModel) -> None:
    prompt = Prompt(
        text="the capital of france is",
        corrupted="the capital of japan is",
        answer="paris",
        wrong_answer="tokyo",
    )
    encoded = encode(model, prompt)
    assert len(encoded.ids) == len(encoded.corrupted or ()) == 6
    assert model.tokenizer.decode([encoded.answer]).strip() == "paris"
    assert model.tokenizer.decode([encoded.wrong_answer]).strip() == "tokyo"
    assert encode(model, Prompt(text="x")).answer is None


def test_a_chat_prompt_has_one_bos_and_ends_where_the_assistant_speaks(
    model: HookedModel,
) -> None:
    encoded = encode(model, Prompt(text="hello", answer="paris", template="chat"))
    words = model.tokenizer.convert_ids_to_tokens(list(encoded.ids))
    assert words.count("<bos>") == 1
    assert words[-1] == "<|assistant|>"


def test_a_chat_prompt_needs_a_template(model: HookedModel) -> None:
    class Plain(HookedModel):
        def __init__(self) -> None:
            super().__init__(model.model, Merging(), config=model._raw_config)

    with pytest.raises(PromptError, match="has no chat template"):
        encode(Plain(), Prompt(text="hello", template="chat"))


def test_what_the_model_cannot_take_is_refused(model: HookedModel) -> None:
    limit = model.config["context_length"]
    with pytest.raises(PromptError, match=rf"has {limit + 1} tokens; the context .* is {limit}"):
        encode(model, Prompt(text="dog " * limit))
    with pytest.raises(PromptError, match=r"has token 99999; this model knows tokens 0 to"):
        encode(model, Prompt(text="dog", token_ids=(1, 99_999)))


def batch(model: HookedModel, *texts: str) -> PromptBatch:
    encoded = [encode(model, Prompt(text=text)) for text in texts]
    return PromptBatch([Trial(number=i, encoded=e) for i, e in enumerate(encoded)], {"a": "b"})


def test_positions_are_those_of_each_row(model: HookedModel) -> None:
    uneven = batch(model, "the capital of france is", "mary lives in")
    assert len(uneven) == 2
    assert uneven.positions("last").tolist() == [[5], [3]]
    with pytest.raises(PromptError, match="equal length"):
        uneven.positions("all")
    even = batch(model, "mary lives in", "john lives in")
    assert even.positions("all").tolist() == [[0, 1, 2, 3]] * 2


def test_padding_is_on_the_right() -> None:
    padded = pad([[5, 6], [7]])
    assert padded.tokens.tolist() == [[5, 6], [7, 0]]
    with pytest.raises(PromptError, match="no tokens"):
        pad([[5], []])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"n_positions": 1024, "n_ctx": 512}, 1024),
        ({"text_config": {"max_position_embeddings": 8}}, 8),
        ({}, None),
    ],
)
def test_the_context_is_read_from_any_configuration(
    config: dict[str, Any], expected: int | None
) -> None:
    assert context_length(config) == expected
