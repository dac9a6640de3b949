"""Generated prompts: IOI and repetition, for the built-in model's words and anybody's."""

import pytest

from mlux import prompts
from mlux.engine import HookedModel
from mlux.engine.trials import encode
from mlux.errors import PromptError, UnknownNameError
from mlux.prompts import induction, ioi, repeated_tokens
from tools.demo_model.world import load_world


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return HookedModel.from_pretrained("demo")


@pytest.mark.parametrize("corrupt", ["flipped", "abc"])
def test_ioi_asks_for_the_name_said_once(corrupt: prompts.IoiCorruption) -> None:
    made = ioi(n=40, seed=3, corrupt=corrupt).prompts
    assert [prompt.label for prompt in made] == ["ABBA", "BABA"] * 20
    for prompt in made:
        assert prompt.text.count(str(prompt.subject)) == 2
        assert prompt.text.count(str(prompt.answer)) == 1
        names = prompt.text.index(str(prompt.answer)) < prompt.text.index(str(prompt.subject))
        assert names == (prompt.label == "ABBA")
        assert len(str(prompt.corrupted).split()) == len(prompt.text.split())
        if corrupt == "flipped":
            assert str(prompt.corrupted).count(str(prompt.answer)) == 2
        else:
            assert str(prompt.answer) not in str(prompt.corrupted)
            assert str(prompt.subject) not in str(prompt.corrupted)
    assert ioi(n=40, seed=3, corrupt=corrupt).prompts == made
    assert ioi(n=40, seed=4, corrupt=corrupt).prompts != made


def test_ioi_of_the_built_in_models_words_is_answered(model: HookedModel) -> None:
    rules = load_world().raw["ioi"]
    templates = [
        " ".join({"PL": "{PLACE}", "OB": "{OBJECT}"}.get(w, f"{{{w}}}" if w in "ABS" else w)
                 for w in template.removesuffix(" I").split(" "))
        for template in rules["templates"]
    ]  # fmt: skip
    names = [*rules["names_a"], *rules["names_b"]]
    made = ioi(names, rules["places"], rules["objects"], templates, n=32)
    found = [encode(model, prompt) for prompt in made.prompts]
    assert all(one.corrupted and len(one.corrupted) == len(one.ids) for one in found)
    top = [int(model.run_with_hooks([list(one.ids)])[0, -1].argmax()) for one in found]
    # Pairs of two of its names_a are new to it as well; the card's accuracy on its own is 1.
    assert sum(a == one.answer for a, one in zip(top, found, strict=True)) >= 0.8 * 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["Mary"]}, r"at least 2 names; 1 are given"),
        ({"names": ["A", "B", "C"], "corrupt": "abc"}, r"at least 5 names; 3 are given"),
        ({"templates": ["{A} and {B} met , {S} saw {X}"]}, r"has the slot \{X\}; expected"),
        ({"templates": ["{A} met {B}"]}, r"lacks the slot \{S\}"),
        ({"templates": []}, r"at least one template"),
        ({"places": []}, r"a place, an object"),
        ({"templates": ["{A} {B} {S}"], "names": ["x", "y"], "n": 9}, r"give \d different prompts"),
        ({"corrupt": "flip"}, r"No corruption named 'flip'.*'flipped'"),
    ],
)
def test_ioi_that_cannot_be_made_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((PromptError, UnknownNameError), match=message):
        ioi(**arguments)  # type: ignore[arg-type] # on purpose


def test_induction_repeats_words_of_ones_own(model: HookedModel) -> None:
    made = induction(load_world().content_words(), period=10, n=24, seed=1).prompts
    assert {prompt.label for prompt in made} == {"after 2 words", "after 5 words", "after 9 words"}
    right = []
    for prompt in made:
        words, unrelated = prompt.text.split(), str(prompt.corrupted).split()
        known = len(words) - 10
        assert words[10:] == words[:known] == unrelated[10:]
        assert prompt.answer == words[known]
        assert prompt.wrong_answer in {*words[:10]} - {prompt.answer}
        assert not {*words} & {*unrelated[:10]}
        one = encode(model, prompt)
        right.append(int(model.run_with_hooks([list(one.ids)])[0, -1].argmax()) == one.answer)
    assert sum(right) >= 22  # the card's accuracy on second repeats is .999


def test_tokens_of_a_vocabulary_are_words(model: HookedModel) -> None:
    made = repeated_tokens(model.tokenizer, period=6, n=3, seed=2).prompts
    for prompt in made:
        ids = prompt.token_ids
        assert ids is not None
        assert ids[0] == model.tokenizer.bos_token_id
        assert ids[1:7] == ids[7:]
        assert len({*ids[1:7]}) == 6
    few = repeated_tokens(model.tokenizer, period=6, n=3, vocab_size=100).prompts
    assert max(max(prompt.token_ids or ()) for prompt in few) < 100


def test_too_few_words_are_refused(model: HookedModel) -> None:
    with pytest.raises(PromptError, match="period of 3 needs 6 different words; there are 5"):
        induction(["a", "b", "c", "d", "e", "a"], period=3)
    with pytest.raises(PromptError, match=r"with \[3\] words known: expected"):
        induction(["a", "b", "c", "d", "e", "f"], period=3, known=[3])
    with pytest.raises(PromptError, match=r"period is 9999, but this vocabulary has \d+ words"):
        repeated_tokens(model.tokenizer, period=9999)
