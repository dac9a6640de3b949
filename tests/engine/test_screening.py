"""Prompts that an experiment cannot use are told before it runs, and left out if one says so."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mlux import compare, plan, run_experiment
from mlux.engine import HookedModel
from mlux.engine.screening import BadPrompts, Screened, screen
from mlux.errors import PromptError
from mlux.prompts import Prompt, PromptSet
from mlux.store import Store, load_run

GIVER = {"answer": "mary", "wrong_answer": "john"}
GOOD = Prompt(
    text="mary and john met , john saw", corrupted="mary and john met , mary saw", **GIVER
)
BAD = {
    r"it has 9 tokens and its corrupted form 10\.": Prompt(
        text="john and mary met , mary saw john",
        corrupted="john and mary met , john saw a letter",
        **GIVER,
    ),
    r"its answer 'hot dog' is 2 tokens, of which only the first, 'hot', would be scored\.": Prompt(
        text="mary has a", corrupted="john has a", answer="hot dog", wrong_answer="book"
    ),
    r"'hot dog' and 'hot cat' begin with the same token\.": Prompt(
        text="mary saw a", corrupted="john saw a", answer="hot dog", wrong_answer="hot cat"
    ),
    r"The answer 'zzz' is not in this model's vocabulary\.": Prompt(
        text="mary met", corrupted="john met", answer="zzz", wrong_answer="john"
    ),
}  # fmt: skip
ROLES = ("corrupted", "answer", "wrong_answer")


@pytest.fixture(scope="module")
def screened() -> Callable[..., Screened]:
    model = HookedModel.from_pretrained("demo")

    def run(*prompts: Prompt, bad: BadPrompts = "fail", aligned: bool = True) -> Screened:
        chosen = PromptSet(name="mine", prompts=prompts)
        return screen(model, chosen, experiment="e", roles=ROLES, aligned=aligned, bad_prompts=bad)

    return run


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_prompt_is_told_with_its_reason(
    reason: str, screened: Callable[..., Screened]
) -> None:
    with pytest.raises(PromptError, match=reason) as caught:
        screened(GOOD, BAD[reason])
    message = str(caught.value)
    assert message.startswith("1 of the 2 prompts of 'mine' cannot be used by e. Prompt 2: ")
    assert "--bad-prompts drop" in message
    assert "\n" not in message
    found = screened(GOOD, BAD[reason], bad="drop")
    assert [encoded.prompt for encoded in found.encoded] == [GOOD]
    assert found.prompts == PromptSet(name="mine without 1 bad", prompts=(GOOD,))
    assert len(found.dropped) == 1


def test_good_prompts_stay_the_set_that_they_are(screened: Callable[..., Screened]) -> None:
    for choice in ("fail", "drop", "keep"):
        found = screened(GOOD, bad=choice)
        assert found.prompts == PromptSet(name="mine", prompts=(GOOD,))
        assert (found.dropped, found.n_long_answers) == ((), 0)


def test_an_answer_of_several_tokens_may_be_kept(screened: Callable[..., Screened]) -> None:
    long_answer = list(BAD.values())[1]
    found = screened(GOOD, long_answer, bad="keep")
    assert found.n_long_answers == 1
    assert len(found.encoded) == 2
    with pytest.raises(PromptError, match=r"Score first tokens with --bad-prompts keep\."):
        screened(GOOD, long_answer)


def test_lengths_matter_only_where_positions_are_compared(
    screened: Callable[..., Screened],
) -> None:
    assert len(screened(GOOD, next(iter(BAD.values())), aligned=False).encoded) == 2


def test_the_report_shows_a_few_and_counts_the_rest(screened: Callable[..., Screened]) -> None:
    with pytest.raises(PromptError, match=r"4 of the 5 prompts.*Prompt 4:.*And 1 more\."):
        screened(GOOD, *BAD.values())
    with pytest.raises(PromptError, match=r"4 of the 4 prompts.*None is left\."):
        screened(*BAD.values(), bad="drop")
    with pytest.raises(PromptError, match="it has no corrupted"):
        screened(Prompt(text="mary", answer="john", wrong_answer="mary"), bad="drop")
    with pytest.raises(PromptError, match=r"bad_prompts is 'drp'; expected fail, drop, keep"):
        screened(GOOD, bad="drp")


def letter_by_letter() -> HookedModel:
    """A model whose tokenizer knows letters, and no word of the built-in model."""
    built_in = HookedModel.from_pretrained("demo")
    vocab = {letter: i for i, letter in enumerate("?abcdefghijklmnopqrstuvwxyz ,.:;→\n")}
    made = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")
    return HookedModel(built_in.model, tokenizer)


@pytest.mark.parametrize(
    ("experiment", "instead"),
    [
        ("activation_patching", r"written in the words of the built-in model.*--prompts FILE"),
        ("direct_logit_attribution", r"written in the words of the built-in model.*--prompts FILE"),
        ("function_vectors", r"makes its prompts itself.*see: mlux experiments function_vectors"),
    ],
)
def test_default_prompts_that_do_not_fit_say_what_to_use(experiment: str, instead: str) -> None:
    with pytest.raises(PromptError, match=instead) as caught:
        plan.prepare(experiment, model=letter_by_letter())
    assert "\n" not in str(caught.value)


def test_advice_is_only_given_where_it_helps(screened: Callable[..., Screened]) -> None:
    with pytest.raises(PromptError) as caught:
        screened(GOOD, *BAD.values())  # of which only one has an answer of several tokens
    assert "Score first tokens" not in str(caught.value)
    assert "built-in" not in str(caught.value)


def test_without_a_need_for_answers_long_ones_are_only_noted() -> None:
    model = HookedModel.from_pretrained("demo")
    chosen = PromptSet(name="mine", prompts=(list(BAD.values())[1],))
    found = screen(model, chosen, experiment="logit_lens", roles=(), aligned=False)
    assert found.n_long_answers == 1


def test_a_run_without_them_says_how_many(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    records = [
        {role: getattr(prompt, role) for role in ("text", *ROLES)}
        for prompt in (GOOD, *BAD.values())
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    db = tmp_path / "mlux.db"
    options = {"sites": "attn_out"}
    with pytest.raises(PromptError, match="4 of the 5 prompts"):
        run_experiment("activation_patching", model="demo", prompts=path, params=options, db=db)
    assert not db.exists(), "nothing is stored of a run that was not begun"
    run = run_experiment(
        "activation_patching", model="demo", prompts=path, params=options, db=db,
        bad_prompts="drop", note="a try",
    )  # fmt: skip
    with Store.open(db) as store:
        assert load_run(store, run.uid).note == "a try (4 of 5 prompts dropped)"
    assert set(compare.layer_results(run.uid, db=db)["prompt"]) == {GOOD.text}
    prepared = plan.prepare(
        "activation_patching", model="demo", prompts=path, params=options, bad_prompts="drop"
    )
    assert prepared.plan().n_dropped == 4
