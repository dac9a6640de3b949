"""A part of a prompt is found in its tokens, however a tokenizer cuts and folds the text."""

from collections.abc import Sequence

import pytest

from mlux import prompts
from mlux.engine import HookedModel
from mlux.engine.spans import subject_span, text_span
from mlux.engine.trials import encode
from mlux.errors import PromptError
from mlux.prompts import Prompt


class Pieces:
    """A tokenizer whose tokens are any pieces of text."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.pieces[i] for i in ids)


@pytest.mark.parametrize(
    ("pieces", "part", "span", "first"),
    [
        (("<s>", "The", " Ei", "ff", "el", " Tower", " is"), "Eiffel Tower", (2, 6), False),
        (("go", "es", " to", " go"), "go", (3, 4), True),
        (("go", "es", " to", " go", " go", "es"), "go", (3, 4), False),
        (("Anna", " saw", " Anna", "."), "anna", (0, 1), True),
        (("Anna", " saw", " Anna", "."), "Anna", (2, 3), False),
        (("法", "国", "的", "首都"), "法国", (0, 2), False),
        (("new", "  ", "york", "!"), "new york", (0, 3), False),
    ],
)
def test_a_part_is_found(
    pieces: tuple[str, ...], part: str, span: tuple[int, int], first: bool
) -> None:
    assert text_span(Pieces(*pieces), range(len(pieces)), part, first=first) == span


@pytest.mark.parametrize("name", ["two_hop", "ioi", "facts", "requests", "reviews"])
def test_the_subject_of_every_shipped_prompt_is_its_word(name: str) -> None:
    model = HookedModel.from_pretrained("demo")
    for prompt in prompts.load(name).first(20).prompts:
        encoded = encode(model, prompt)
        start, stop = subject_span(model.tokenizer, encoded)
        assert stop == start + 1
        assert model.tokenizer.decode([encoded.ids[start]]) == prompt.subject
        assert encoded.ids[start] not in encoded.ids[stop:]


def test_what_is_not_there_is_refused() -> None:
    model = HookedModel.from_pretrained("demo")
    with pytest.raises(PromptError, match=r"'paris' is not in the prompt '.*france is'"):
        subject_span(
            model.tokenizer, encode(model, Prompt(text="the capital of france is", subject="paris"))
        )
    with pytest.raises(PromptError, match="has no subject"):
        subject_span(model.tokenizer, encode(model, Prompt(text="the capital")))
