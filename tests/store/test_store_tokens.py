"""Different tokens never have one text, whatever their tokenizer's decoder makes of them."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from synthetic import make_environment, make_model, make_spec
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mlux import charts, compare, prompts, run_experiment
from mlux.engine.loading import tokenizer_identity
from mlux.engine.vocabulary import Vocabulary, visible
from mlux.export import export
from mlux.provenance import TokenText
from mlux.results import TopTokens
from mlux.store import FinishedTrial, RunWriter, Store, create_run, query, schema, soundness
from mlux.store.merge import merge

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _vocab(*pieces: str) -> dict[str, int]:
    return {piece: token for token, piece in enumerate(pieces)}


def sentencepiece(*, byte_fallback: bool) -> Tokenizer:
    """As Llama 2's and Mistral's: the decoder strips the space in front and joins bytes."""
    words = ("▁", "-", "▁-", "the", "▁the", "▁▁", "\n", "A", "\x7f", "�", "␣", "▁<0x41>", "<id:3>")
    vocab = _vocab("<unk>", "<s>", *(BYTES if byte_fallback else ()), *words)
    made = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=byte_fallback))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    made.add_special_tokens(["<s>"])
    return made


def unigram() -> Tokenizer:
    """As T5's and Gemma's converted ones: pieces with scores."""
    words = ("<unk>", "▁", "-", "▁-", "the", "▁the", "▁▁")
    made = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made


def byte_level() -> Tokenizer:
    """As GPT-2's and Llama 3's, with runs of spaces added to those that it has, as GPT-NeoX's."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ("Ġ-", "the", "Ġthe", "ĠĠ", "âĤ", "âĢ", "Ċ", "ĊĊ", "âĢĭ", "<0xE2>")
    vocab = _vocab(*dict.fromkeys([*letters, *words]))
    made = Tokenizer(models.BPE(vocab, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken("  "), AddedToken("   "), AddedToken("Ġ")])
    made.add_special_tokens(["<|endoftext|>"])
    return made


def wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(_vocab("[UNK]", "ing", "##ing", "-"), unk_token="[UNK]"))
    made.decoder = decoders.WordPiece()
    return made


KINDS = {
    "stripping": lambda: sentencepiece(byte_fallback=False),
    "byte-fallback": lambda: sentencepiece(byte_fallback=True),
    "unigram": unigram,
    "byte-level": byte_level,
    "wordpiece": wordpiece,
}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=KINDS[request.param]())


def _decoded(tokenizer: Any) -> Any:
    """What an earlier mlux knew of a token."""
    return lambda token: TokenText(
        text=tokenizer.decode([token]), piece=None, shown=f"<id:{token}>"
    )


def fill(store: Store, tokenizer: Any, texts: Any = None, **model: Any) -> tuple[str, int]:
    """A run that predicts every token of a vocabulary and one beyond it once; its uid and size."""
    size = len(tokenizer.get_vocab()) + 1
    identity = replace(make_model(**model), tokenizer=tokenizer_identity(tokenizer))
    uid = create_run(store, make_spec(n_prompts=1, model=identity))
    writer = RunWriter(store, uid, texts or Vocabulary(tokenizer))
    writer.start(make_environment())
    ids = list(range(size))
    top = TopTokens(token_ids=ids, logprobs=[-1.0] * size, layer=0, position=0)
    writer.write([FinishedTrial(trial=0, results=[top], tokens={"clean": ids})])
    writer.finish("done")
    return uid, size


def counted(store: Store) -> set[int]:
    """How often each text of a token is there, in the database's own `GROUP BY`."""
    _, rows = query(store, "SELECT token, count(DISTINCT token_id) FROM predictions GROUP BY token")
    return {int(times) for _, times in rows}


def test_no_text_adds_different_tokens_up(store: Store, tokenizer: Any, tmp_path: Path) -> None:
    uid, size = fill(store, tokenizer)
    assert counted(store) == {1}
    frame = compare.predictions(uid, db=store)
    assert list(frame["token_id"]) == list(range(size))
    assert frame.groupby("token", observed=True)["token_id"].nunique().eq(1).all()
    assert compare.tokens(uid, db=store)["token"].nunique() == size
    export(store, [uid], tmp_path / "tables", table_format="csv")
    table = pd.read_csv(tmp_path / "tables" / "predictions.csv", keep_default_na=False)
    assert table["token"].nunique() == size == table["token_id"].nunique()
    export(store, [uid], tmp_path / "copy.db")
    with Store.open(tmp_path / "copy.db", write=True) as copy:
        assert counted(copy) == {1}
        assert merge(copy, store.location if store.path is None else store.path).refused == {}
    assert soundness.check(store) == []


def test_everything_of_a_token_can_be_seen(tokenizer: Any) -> None:
    vocabulary = Vocabulary(tokenizer)
    for piece, token in tokenizer.get_vocab().items():
        found = vocabulary(token)
        assert found.piece == piece
        assert found.shown.isprintable()
        assert " " not in found.shown
        assert found.shown.removesuffix(f"<id:{token}>")


@pytest.mark.parametrize(
    ("kind", "piece", "shown"),
    [
        ("stripping", "▁the", "␣the"),
        ("stripping", "the", "the"),
        ("stripping", "▁", "␣"),
        ("stripping", "␣", "<U+2423>"),
        ("stripping", "\n", "↵"),
        ("stripping", "<s>", "<s>"),
        ("byte-fallback", "<0xE2>", "<0xE2>"),
        ("byte-fallback", "<0x41>", "<0x41>"),
        ("byte-fallback", "▁<0x41>", "␣<U+003C>0x41>"),
        ("unigram", "▁-", "␣-"),
        ("byte-level", "Ġthe", "␣the"),
        ("byte-level", "âĤ", "<0xE2><0x82>"),
        ("byte-level", "âĢĭ", "<U+200B>"),
        ("byte-level", "<0xE2>", "<U+003C>0xE2>"),
        ("byte-level", "ĊĊ", "↵↵"),
        ("byte-level", "   ", "␣␣␣"),
        ("byte-level", "<|endoftext|>", "<|endoftext|>"),
        ("wordpiece", "##ing", "##ing"),
    ],
)
def test_a_token_is_shown_as_it_is_read(kind: str, piece: str, shown: str) -> None:
    made = PreTrainedTokenizerFast(tokenizer_object=KINDS[kind]())
    assert Vocabulary(made)(made.get_vocab()[piece]).shown == shown


def test_two_pieces_of_one_content_are_told_apart_by_their_ids() -> None:
    made = PreTrainedTokenizerFast(tokenizer_object=byte_level())
    own, added = made.get_vocab()["ĠĠ"], made.get_vocab()["  "]
    vocabulary = Vocabulary(made)
    assert vocabulary(own).shown == f"␣␣<id:{own}>"
    assert vocabulary(added).shown == f"␣␣<id:{added}>"


def test_what_is_visible_says_which_text_it_was() -> None:
    marks = ["<", "<0x", "<0x41>", "<U+200B>", "\u200b", "<id:1>", "\0", "␣", " ", "\udce2", "â"]
    texts = [a + b for a in ["", *marks] for b in marks]
    assert len({visible(text) for text in texts}) == len(set(texts))


# --- databases of before ---


def _earlier(location: str, *tokenizers: tuple[Any, str], revision: str = "r0003") -> None:
    """Makes a database as an earlier mlux left it, of runs on models with these sources."""
    with Store.open(location, write=True) as store:
        for place, (tokenizer, source) in enumerate(tokenizers):
            hashed = f"{place}{place}" * 32
            texts = _decoded(tokenizer)
            fill(store, tokenizer, texts, name=f"m{place}", source=source, weights_hash=hashed)
        schema.downgrade(store, revision)


def _tokens(store: Store) -> list[tuple[int, str, str | None, str]]:
    with store.reading() as connection:
        found = connection.execute(
            sa.text("SELECT token_id, text, piece, shown FROM tokens ORDER BY token_id")
        )
        return [tuple(row) for row in found]


def test_tokens_of_before_are_corrected_where_the_vocabulary_is_known(
    db_location: str, tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "model")
    _earlier(db_location, (tokenizer, str(tmp_path / "model")))
    vocabulary = Vocabulary(tokenizer)
    with Store.open(db_location, write=True) as store:
        for token, text, piece, shown in _tokens(store):
            expected = vocabulary(token)
            assert (text, piece) == (expected.text.replace("\0", "␀"), expected.piece)
            assert shown.removesuffix(f"<id:{token}>") == expected.shown.removesuffix(
                f"<id:{token}>"
            )
        assert counted(store) == {1}
        assert soundness.check(store) == []


@pytest.mark.parametrize("revision", ["a" * 40, None])
def test_tokens_of_a_model_in_the_hubs_cache_are_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level())
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / ("a" * 40)
    tokenizer.save_pretrained(snapshot)
    db = str(tmp_path / "mlux.db")
    with Store.open(db, write=True) as store:
        source = {"source": "some/model", "revision": revision}
        fill(store, tokenizer, _decoded(tokenizer), **source)
        schema.downgrade(store, "r0003")
    with Store.open(db, write=True) as store:
        unknown = [token for token, _, piece, _ in _tokens(store) if piece is None]
    assert unknown == [len(tokenizer.get_vocab())]  # the one beyond the vocabulary


def test_tokens_of_an_unknown_vocabulary_are_marked_until_a_run_knows_it(
    db_location: str, tokenizer: Any
) -> None:
    _earlier(db_location, (tokenizer, "/nowhere"))
    with Store.open(db_location, write=True) as store:
        for token, text, piece, shown in _tokens(store):
            assert piece is None
            assert shown == f"{visible(text)}<id:{token}>"
        assert counted(store) == {1}
        fill(store, tokenizer, name="m0", source="/nowhere", weights_hash="00" * 32)
        vocabulary = Vocabulary(tokenizer)
        for token, _, piece, shown in _tokens(store):
            assert (piece, shown) == (vocabulary(token).piece, vocabulary(token).shown)
        assert counted(store) == {1}


def test_another_vocabulary_at_the_old_place_is_not_believed(
    db_location: str, tmp_path: Path
) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram())
    other = unigram()
    other.model = models.Unigram([(f"▁w{i}", -1.0) for i in range(7)], unk_id=0)
    PreTrainedTokenizerFast(tokenizer_object=other).save_pretrained(tmp_path / "model")
    _earlier(db_location, (tokenizer, str(tmp_path / "model")))
    with Store.open(db_location, write=True) as store:
        assert {piece for _, _, piece, _ in _tokens(store)} == {None}


def test_a_merge_brings_pieces_that_are_not_known_here(db_location: str, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level())
    _earlier(db_location, (tokenizer, "/nowhere"))
    with Store.open(tmp_path / "new.db", write=True) as new:
        uid, _ = fill(new, tokenizer)
    with Store.open(db_location, write=True) as store:
        assert merge(store, tmp_path / "new.db").new == [uid]
        known = [piece for _, _, piece, shown in _tokens(store) if not shown.startswith("<id")]
        assert None not in known
        assert counted(store) == {1}
        assert merge(store, tmp_path / "new.db").same == [uid]


def test_tokens_of_the_built_in_model_are_corrected(tmp_path: Path) -> None:
    golden = Path(__file__).with_name("golden") / "r0003.db"
    old = Path(shutil.copy(golden, tmp_path / "old.db"))
    with Store.open(old, write=True) as store:
        _, rows = query(
            store,
            "SELECT k.piece, k.shown FROM tokens AS k JOIN models AS m "
            "ON m.tokenizer_id = k.tokenizer_id WHERE m.name = 'demo'",
        )
        marked = query(store, "SELECT DISTINCT token FROM predictions WHERE model = 'toy'")[1]
    assert len(rows) > 100
    assert all(piece is not None and "<id" not in shown for piece, shown in rows)
    assert all(shown.startswith("␣w") and shown.endswith(">") for (shown,) in marked)


def test_charts_show_what_tells_tokens_apart(store: Store) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=sentencepiece(byte_fallback=True))
    vocabulary, ids = Vocabulary(tokenizer), tokenizer.get_vocab()
    read = [ids[piece] for piece in ("the", "▁the", "<0xE2>", "▁")]
    uid = create_run(store, make_spec(n_prompts=1))
    writer = RunWriter(store, uid, vocabulary)
    writer.start(make_environment())
    tops = [
        TopTokens(token_ids=[token], logprobs=[-1.0], layer=0, position=place)
        for place, token in enumerate(read)
    ]
    writer.write([FinishedTrial(trial=0, results=tops, tokens={"clean": read})])
    writer.finish("done")
    drawn = charts.chart_for(uid, chart="lens_grid", db=store).to_dict()
    cells = drawn["data"]["values"]
    assert [row["token"] for row in cells] == ["the", "␣the", "<0xE2>", "␣"]
    assert [row["label"].split(" ", 1)[1] for row in cells] == ["the", "␣the", "<0xE2>", "␣"]


def test_a_run_stores_the_pieces_of_its_model(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text(prompts.load("facts").prompts[0].text, "utf-8")
    run_experiment("logit_lens", model="demo", prompts=str(path), db=store.location
                   if store.path is None else str(store.path))  # fmt: skip
    tokens = _tokens(store)
    assert all(piece is not None for _, _, piece, _ in tokens)
    assert Counter(shown for _, _, _, shown in tokens).most_common(1)[0][1] == 1
