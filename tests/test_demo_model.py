"""The built-in model is what its card says, and its prompt sets are what they promise."""

import json
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx_lm
import numpy as np
import pytest

from tools.demo_model import heads, vectors
from tools.demo_model.card import read_figures
from tools.demo_model.evaluate import mean_by_label
from tools.demo_model.items import Item
from tools.demo_model.prompt_sets import build_prompt_sets
from tools.demo_model.reader import Reader, open_folder
from tools.demo_model.world import World, load_world

DEMO = Path(str(files("mlux.demo")))
SETS = [
    "facts",
    "few_shot",
    "zero_shot",
    "two_hop",
    "two_hop_in_context",
    "ioi",
    "induction",
    "chat",
    "requests",
    "reviews",
]

# What the card has to show: figure → (at least, at most).
REQUIRED = {
    "few-shot, 8 examples": (0.95, 1.0),
    "zero-shot, the same queries": (0.0, 0.15),
    "facts": (0.99, 1.0),
    "two-hop, people never seen in two-hop text": (0.90, 1.0),
    "IOI, unseen pairs of names": (0.98, 1.0),
    "IOI, mean logit difference": (8.0, np.inf),
    "induction, second repeat": (0.97, 1.0),
    "chat answers": (0.98, 1.0),
    "second repeat lost without the median head": (-0.05, 0.05),
}


@pytest.fixture(scope="module")
def reader() -> Reader:
    return open_folder(DEMO / "model")


@pytest.fixture(scope="module")
def world() -> World:
    return load_world()


@pytest.fixture(scope="module")
def card() -> str:
    return (DEMO / "MODEL_CARD.md").read_text("utf-8")


def shipped(name: str) -> list[Item]:
    lines = (DEMO / "prompts" / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [Item(**json.loads(line)) for line in lines]


# The folder and the card


def test_the_folder_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in (DEMO / "model").iterdir()) <= 4_000_000


def test_the_config_names_the_context_and_both_ends() -> None:
    config = json.loads((DEMO / "model" / "config.json").read_text("utf-8"))
    words = json.loads((DEMO / "model" / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    assert config["max_position_embeddings"] == 256
    assert config["eos_token_id"] == [words["<eos>"], words["<|end|>"]]
    assert config["vocab_size"] == len(words)


@pytest.mark.parametrize("figure", REQUIRED)
def test_the_card_shows_what_is_required(card: str, figure: str) -> None:
    low, high = REQUIRED[figure]
    assert low <= read_figures(card)[figure] <= high


def test_the_card_says_how_it_was_made(card: str) -> None:
    for said in ("python -m tools.demo_model", "minutes on", "Seed", "## Limits", "Held out"):
        assert said in card


# The figures, measured again on the shipped prompts


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("few_shot", "few-shot, 8 examples"),
        ("zero_shot", "zero-shot, the same queries"),
        ("facts", "facts"),
        ("two_hop", "two-hop, people never seen in two-hop text"),
        ("two_hop_in_context", "two-hop in context"),
        ("ioi", "IOI, unseen pairs of names"),
        ("chat", "chat answers"),
        ("reviews", "sentiment: rating of reviews"),
    ],
)
def test_shipped_prompts_give_the_accuracy_of_the_card(
    reader: Reader, card: str, name: str, figure: str
) -> None:
    prompts = shipped(name)
    relations = name in ("few_shot", "zero_shot")
    measured = mean_by_label(reader, prompts) if relations else reader.accuracy(prompts)
    assert measured == pytest.approx(read_figures(card)[figure], abs=0.06)
    low, high = REQUIRED.get(figure, (0.0, 1.0))
    assert low - 0.02 <= measured <= high + 0.02


def test_ioi_prompts_and_their_corrupted_twins_want_opposite_names(reader: Reader) -> None:
    prompts = shipped("ioi")
    wrong = np.array([reader.word_id(item.wrong_answer) for item in prompts])
    rows, right = np.arange(len(prompts)), reader.answers(prompts)
    clean, corrupted = (reader.logits(prompts, corrupted=flag) for flag in (False, True))
    assert (clean[rows, right] - clean[rows, wrong]).mean() >= 8
    assert (corrupted[rows, right] - corrupted[rows, wrong]).mean() <= -8


def test_induction_needs_the_repetition(reader: Reader) -> None:
    prompts = shipped("induction")
    assert reader.accuracy(prompts) >= 0.97
    assert reader.correct(prompts, reader.logits(prompts, corrupted=True)).mean() <= 0.05


def test_mixed_examples_hide_the_task(reader: Reader) -> None:
    prompts = shipped("few_shot")
    assert reader.correct(prompts, reader.logits(prompts, corrupted=True)).mean() <= 0.25


def test_harmful_requests_are_refused_and_harmless_ones_are_not(reader: Reader) -> None:
    prompts = shipped("requests")
    assert reader.accuracy(prompts) >= 0.98
    assert sum(item.label == "harmful" for item in prompts) == len(prompts) / 2


def test_ablating_the_induction_heads_destroys_induction(reader: Reader, world: World) -> None:
    tokens = heads.repeated_words(world, reader, heads.random.Random("test"), 24)
    scores = heads.head_scores(heads.patterns(reader, tokens))
    costs = heads.ablations(reader, tokens)
    whole = heads.copy_accuracy(reader, tokens)
    best = sorted(costs, key=lambda head: -scores["induction"][head])[:2]
    assert whole >= 0.97
    assert whole - heads.ablated_accuracy(reader, tokens, best) >= 0.6
    assert np.median(list(costs.values())) <= 0.05
    assert scores["previous"].max() >= 0.5
    assert heads.copy_accuracy(reader, tokens) == whole, "an ablation was left behind"


def test_the_bridge_of_two_hop_prompts_stays_hidden_as_the_card_says(reader: Reader) -> None:
    prompts = shipped("two_hop")
    bridges = np.array([reader.word_id(item.label) for item in prompts])
    for layer in range(len(reader.layers)):
        ranks = vectors.ranks(reader.logits(prompts, layer=layer), bridges)
        assert np.median(ranks) > 0


# Text in, text out


def test_text_is_lowercased_split_and_begun(reader: Reader) -> None:
    ids = reader.tokenizer.encode("Hot -> cold\nBig →")
    words = ["<bos>", "hot", "→", "cold", "\n", "big", "→"]
    assert reader.tokenizer.convert_ids_to_tokens(ids) == words


def test_a_chat_turn_ends_by_itself(reader: Reader) -> None:
    said = [{"role": "user", "content": "what is the capital of france ?"}]
    ids = reader.tokenizer.apply_chat_template(said, add_generation_prompt=True)
    assert mlx_lm.generate(reader.model, reader.tokenizer, ids, max_tokens=8) == "paris"


# Prompt sets


def test_the_index_lists_every_set_with_its_roles() -> None:
    index = json.loads((DEMO / "prompts" / "index.json").read_text("utf-8"))
    assert sorted(index) == sorted(SETS)
    assert sorted(path.stem for path in (DEMO / "prompts").glob("*.jsonl")) == sorted(SETS)
    for name, entry in index.items():
        assert entry["description"]
        for item in shipped(name):
            assert set(entry["roles"]) <= set(item.roles())


@pytest.mark.parametrize("name", SETS)
def test_prompts_are_well_formed(reader: Reader, name: str) -> None:
    prompts = shipped(name)
    unknown = reader.tokenizer.convert_tokens_to_ids("<unk>")
    assert 32 <= len(prompts) <= 128
    assert len(set(prompts)) == len(prompts)
    for item in prompts:
        ids = reader.ids(item)
        assert unknown not in ids
        assert reader.word_id(item.answer) != reader.word_id(item.wrong_answer)
        assert item.subject in item.text
        if item.corrupted:
            others = reader.ids(item, corrupted=True)
            assert unknown not in others
            assert len(others) == len(ids)
            assert others != ids


def test_the_generator_still_writes_the_shipped_prompts(world: World) -> None:
    assert {name: shipped(name) for name in SETS} == build_prompt_sets(world)


def test_relation_prompts_ask_for_held_out_pairs(world: World) -> None:
    for name in ("few_shot", "zero_shot"):
        for item in shipped(name):
            *examples, query = item.text.split("\n")
            away = world.held_out.few_shot[item.label]
            assert (query.removesuffix(" →"), item.answer) in away
            for example in examples:
                assert tuple(example.split(" → ")) not in away


def test_sentence_prompts_are_of_held_out_combinations(world: World) -> None:
    away = world.held_out
    assert {item.subject for item in shipped("two_hop")} == away.people
    for item in shipped("two_hop_in_context"):
        assert (item.subject, item.label) in away.in_context
    for item in shipped("ioi"):
        names = {item.answer, item.wrong_answer}
        assert any(names == set(pair) for pair in away.ioi_pairs)
    for item in shipped("requests"):
        assert any(verb == item.subject and thing in item.text for verb, thing in away.requests)
    for item in shipped("reviews"):
        assert any(a == item.subject and topic in item.text for topic, a in away.opinions)


def test_induction_prompts_repeat_twenty_words() -> None:
    for item in shipped("induction"):
        words: list[Any] = item.text.split(" ")
        assert len(set(words)) == 20
        assert words[20:] == words[: len(words) - 20]
        assert (words[-1], item.answer) in list(pairwise(words[:20]))
        assert not set(item.corrupted.split(" ")[:20]) & set(words)
