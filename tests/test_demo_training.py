"""The built-in model's world, text and trainer: seeded, honest about hold-outs, and learning."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from tools.demo_model import corpus, documents, network
from tools.demo_model.card import figure_table, read_figures
from tools.demo_model.chat import chat
from tools.demo_model.documents import Document, Writer
from tools.demo_model.evaluate import Figure
from tools.demo_model.export import export
from tools.demo_model.heads import repeated_words, without
from tools.demo_model.network import Shape
from tools.demo_model.optimizer import Schedule, orthogonalise
from tools.demo_model.pruning import silence
from tools.demo_model.reader import open_folder
from tools.demo_model.tokenizer import build_tokenizer, vocabulary
from tools.demo_model.train import TrainingConfig, train
from tools.demo_model.world import World, load_world

SAMPLE = 1500


@pytest.fixture(scope="module")
def world() -> World:
    return load_world()


@pytest.fixture(scope="module")
def words(world: World) -> list[str]:
    return vocabulary(world)


def tiny(words: list[str], *, n_layers: int = 2) -> Shape:
    return Shape(
        n_layers=n_layers,
        d_model=32,
        n_heads=4,
        n_kv_heads=2,
        d_head=8,
        d_mlp=48,
        d_vocab=len(words),
    )


def written(writer: Writer, world: World, seed: int = 0) -> Iterator[list[str]]:
    rng = random.Random(seed)
    for _ in range(SAMPLE):
        yield [word for word, _ in writer(world, rng)]


# The world


def test_every_relation_answers_each_word_once(world: World) -> None:
    for relation in world.relations.values():
        queries = [x for x, _ in relation.pairs]
        assert len(set(queries)) == len(queries), relation.name
        assert all(" " not in word for pair in relation.pairs for word in pair)
        assert all({"X", "Y"} <= set(s.split(" ")) for s in relation.statements)


def test_relations_about_countries_agree_with_the_countries(world: World) -> None:
    for country, facts in world.raw["countries"].items():
        city = facts["capital"]
        assert world.relations["capital"].answer(country) == city
        assert world.relations["country_of"].answer(city) == country
        for name in ("continent", "city_continent"):
            key = city if name.startswith("city") else country
            assert world.relations[name].answer(key) == facts["continent"]
        for name in ("demonym", "city_people"):
            key = city if name.startswith("city") else country
            assert world.relations[name].answer(key) == facts["people"]


def test_inverse_and_composed_relations_agree(world: World) -> None:
    def of(name: str, word: str) -> str:
        return world.relations[name].answer(word)

    for word, plural in world.relations["plural"].pairs:
        assert of("singular", plural) == word
        assert of("from_zorbic", of("zorbic", word)) == word
        assert of("plural_zorbic", plural) == of("zorbic", word)
        assert of("zorbic_category", of("zorbic", word)) == of("category", word)
    for word, past in world.relations["past"].pairs:
        assert of("present", past) == word
        assert of("past_gerund", past) == of("gerund", word)
    for word, opposite in world.relations["antonym"].pairs:
        assert of("antonym", opposite) == word


def test_groups_share_their_query_words(world: World) -> None:
    grouped = [name for group in world.groups for name in group]
    assert sorted(grouped) == sorted(world.relations)
    for group in world.groups:
        first, *others = ({x for x, _ in world.relations[name].pairs} for name in group)
        for other in others:
            assert len(first & other) == min(len(first), len(other))


def test_names_mean_nothing_else(world: World) -> None:
    content = set(world.content_words())
    assert not content & set(world.names)
    assert not content & set(world.homes)
    assert not set(world.names) & set(world.homes)


def test_hold_outs_have_their_share_and_keep_reverses_together(world: World) -> None:
    for name, away in world.held_out.few_shot.items():
        share = len(away) / len(world.relations[name].pairs)
        assert share == pytest.approx(0.18, abs=0.03)
        if name == "antonym":
            assert {(y, x) for x, y in away} == away


def test_another_seed_holds_out_others(world: World) -> None:
    assert load_world(0) == world
    assert load_world(1).held_out != world.held_out


# The text


def test_documents_are_the_same_for_the_same_seed(world: World) -> None:
    def some(seed: int) -> list[Document]:
        rng = random.Random(seed)
        return [corpus.write_document(world, rng) for _ in range(200)]

    assert some(3) == some(3)
    assert some(3) != some(4)


def test_batches_are_the_same_for_the_same_seed(world: World, words: list[str]) -> None:
    def first(seed: int) -> dict[str, mx.array]:
        return next(corpus.write_batches(world, words, seed=seed, rows=4, scored=256))

    one, again, other = first(3), first(3), first(4)
    assert all(mx.array_equal(one[name], again[name]) for name in one)
    assert not mx.array_equal(one["tokens"], other["tokens"])


@pytest.mark.parametrize("writer", [w for w, _ in corpus.MIXTURE], ids=lambda w: w.__name__)
def test_every_word_is_in_the_vocabulary(world: World, words: list[str], writer: Writer) -> None:
    known = set(words)
    for document in itertools.islice(written(writer, world), 300):
        assert set(document) <= known


def test_few_shot_documents_never_hold_a_held_out_pair(world: World) -> None:
    away = {pair for pairs in world.held_out.few_shot.values() for pair in pairs}
    train_pairs = {
        pair for name in world.relations for pair in world.few_shot_pairs(name, held_out=False)
    }
    for document in written(documents.few_shot, world):
        for x, y in zip(document[0::4], document[2::4], strict=True):
            # One pair may be an answer of two relations and be held out of one only.
            assert (x, y) not in away - train_pairs


def test_sentences_never_hold_what_is_held_out(world: World) -> None:
    away = world.held_out
    for document in written(documents.two_hop, world):
        assert not away.people & set(document)
    for document in written(documents.ioi, world):
        names = set(document) & set(world.names)
        assert not any(set(pair) == names for pair in away.ioi_pairs)
    for document in written(documents.two_hop_in_context, world):
        asked = document[document.index("where") + 1 if "where" in document else 0]
        home = document[document.index(asked) + 3]
        assert (asked, home) not in away.in_context
    for document in written(chat, world):
        for request in " ".join(document).split("how can i ")[1:]:
            verb, _, thing = request.split(" ")[:3]
            assert (verb, thing) not in away.requests


def test_induction_documents_only_reward_the_copy(world: World) -> None:
    rng = random.Random(0)
    for _ in range(50):
        document = documents.induction(world, rng)
        length = len({word for word, _ in document})
        assert all(weight == 0 for _, weight in document[: length + 1])
        assert all(weight > 0 for _, weight in document[length + 1 :])


def test_rows_hold_whole_documents_and_little_padding(world: World) -> None:
    rows = list(itertools.islice(corpus.write_rows(world, random.Random(0)), 200))
    lengths = [sum(map(len, row)) for row in rows]
    assert max(lengths) <= corpus.ROW
    assert np.mean(lengths) / corpus.ROW > 0.9
    assert all(doc[0][0] == "<bos>" and doc[-1][0] == "<eos>" for row in rows for doc in row)


def test_the_tokenizer_gives_documents_back(world: World, words: list[str]) -> None:
    tokenizer = build_tokenizer(words)
    for document in itertools.islice(written(documents.facts, world), 100):
        assert tokenizer.encode(" ".join(document)).tokens == ["<bos>", *document]


# The trainer


def test_fast_exponential_is_close_enough() -> None:
    x = mx.linspace(-30, 30, 2001)
    assert mx.max(mx.abs(network.fast_exp(x) / mx.exp(x) - 1)).item() < 1e-4


def test_packed_documents_read_as_they_would_alone(
    world: World, words: list[str], tmp_path: Path
) -> None:
    shape = tiny(words, n_layers=3)
    # Larger weights than the initial ones, so that attention and MLPs matter.
    params = {
        name: (value * (4 if value.ndim == 2 else 1)).astype(mx.float16).astype(mx.float32)
        for name, value in network.init_params(shape, seed=0).items()
    }
    export(params, words, shape, tmp_path)
    reader = open_folder(tmp_path)
    batch = next(corpus.write_batches(world, words, seed=0, rows=2, scored=256))
    mask = network.packed_mask(batch["segments"])
    resid = network.final_residual(params, batch["tokens"], mask, shape)
    logits = np.asarray(resid @ params["model.embed_tokens.weight"].T)
    tokens, segments = np.asarray(batch["tokens"]), np.asarray(batch["segments"])
    for row in range(2):
        for number in range(segments[row].max() + 1):
            inside = segments[row] == number
            alone = reader.model(mx.array(tokens[row, inside][None]))
            np.testing.assert_allclose(logits[row, inside], np.asarray(alone)[0], atol=2e-3)


def test_the_gradient_of_the_loss_is_that_of_cross_entropy(words: list[str]) -> None:
    shape = tiny(words)
    params = network.init_params(shape, seed=0)
    rng = np.random.default_rng(0)
    batch = {
        "tokens": mx.array(rng.integers(0, 50, (2, 12))),
        "segments": mx.zeros((2, 12), dtype=mx.int32),
        "where": mx.array([1, 5, 17]),
        "target": mx.array([7, 8, 9]),
        "weight": mx.array([1.0, 0.5, 0.0]),
    }

    def reference(params: network.Params) -> mx.array:
        mask = network.packed_mask(batch["segments"])
        resid = network.final_residual(params, batch["tokens"], mask, shape)
        logits = resid.reshape(-1, shape.d_model)[batch["where"]]
        logits = logits @ params["model.embed_tokens.weight"].T
        own = mx.take_along_axis(logits, batch["target"][:, None], axis=-1)[:, 0]
        weight = batch["weight"]
        return mx.sum(weight * (mx.logsumexp(logits, axis=-1) - own)) / mx.sum(weight)

    expected, expected_grads = mx.value_and_grad(reference)(params)
    loss, grads = mx.value_and_grad(lambda p: network.weighted_loss(p, batch, shape))(params)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, expected_grads[name], atol=1e-4)


def test_orthogonalised_updates_have_singular_values_near_one() -> None:
    stack = mx.random.normal((3, 24, 16), key=mx.random.key(0))
    values = np.linalg.svd(np.asarray(orthogonalise(stack)), compute_uv=False)
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_the_rate_warms_up_holds_and_decays() -> None:
    schedule = Schedule(steps=1000, peak=1.0, warmup=100, decay_share=0.35)
    assert schedule.rate(0) == pytest.approx(0.01)
    assert schedule.rate(300) == 1.0
    assert schedule.rate(999) == pytest.approx(1 / 350)


def test_training_learns_and_is_the_same_for_the_same_seed(world: World, words: list[str]) -> None:
    def run(seed: int) -> tuple[network.Params, list[float]]:
        config = TrainingConfig(
            seed=seed,
            rows=8,
            scored=512,
            schedule=Schedule(steps=25, warmup=5),
            compiled=False,  # so that the test needs no C++ compiler
        )
        return train(world, words, tiny(words), config)

    params, losses = run(0)
    again, same = run(0)
    _, others = run(1)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    assert losses == same
    assert all(mx.array_equal(params[name], again[name]) for name in params)
    assert losses != others


def test_a_silenced_head_is_the_same_as_an_ablated_one(
    world: World, words: list[str], tmp_path: Path
) -> None:
    shape = tiny(words)
    params = network.init_params(shape, seed=0)
    export(silence(params, [(1, 2)], shape), words, shape, tmp_path / "silenced")
    export(params, words, shape, tmp_path / "whole")
    silenced, whole = open_folder(tmp_path / "silenced"), open_folder(tmp_path / "whole")
    tokens = repeated_words(world, whole, random.Random(0), 2)
    before = whole.model(tokens)
    with without(whole, [(1, 2)]):
        assert mx.allclose(whole.model(tokens), silenced.model(tokens), atol=1e-6)
    assert mx.array_equal(whole.model(tokens), before)
    assert not mx.allclose(before, silenced.model(tokens), atol=1e-6)


def test_the_card_can_be_read_again() -> None:
    figures = [Figure(task="a, b", value=0.5, at_least=0.9), Figure(task="c", value=-1.25)]
    assert read_figures(figure_table(figures)) == {"a, b": 0.5, "c": -1.25}
    assert [figure.reached for figure in figures] == [False, True]
