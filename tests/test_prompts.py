"""Prompt sets: shipped, from files in four formats, and refused with one clear line."""

import json
from pathlib import Path

import pytest

from mlux import prompts
from mlux.errors import PromptError, UnknownNameError
from mlux.prompts import Prompt, PromptSet


@pytest.mark.parametrize("name", prompts.shipped())
def test_every_shipped_set_loads(name: str) -> None:
    loaded = prompts.load(name)
    assert loaded.name == name
    assert loaded.description
    assert len(loaded.prompts) >= 32


def test_one_set_in_four_formats(tmp_path: Path) -> None:
    expected = (Prompt(text="a b", answer="c"), Prompt(text="d, e", answer="f"))
    records = [{"text": "a b", "answer": "c"}, {"text": "d, e", "answer": "f"}]
    files = {
        "set.jsonl": "\n".join(map(json.dumps, records)),
        "set.json": json.dumps(records),
        "set.csv": 'text,answer\na b,c\n"d, e",f\n',
    }
    for name, content in files.items():
        path = tmp_path / name
        path.write_text("\ufeff" + content if name == "set.csv" else content, "utf-8")
        loaded = prompts.load(path)
        assert loaded.prompts == expected, name
        assert loaded.name == "set"
    text = tmp_path / "set.txt"
    text.write_text("a b\n\nd, e\n")
    assert [prompt.text for prompt in prompts.load(text).prompts] == ["a b", "d, e"]


def test_the_same_prompt_twice_is_said(tmp_path: Path) -> None:
    path = tmp_path / "twice.txt"
    path.write_text("a\n\nb\na\nb\n")
    with pytest.raises(
        PromptError, match=r"twice\.txt, line 4: the same prompt as in line 1;.* 1 m"
    ):
        prompts.load(path)


def test_a_count_takes_the_first_prompts(tmp_path: Path) -> None:
    few = prompts.load("ioi:3")
    assert few.name == "ioi:3"
    assert few.prompts == prompts.load("ioi").prompts[:3]
    with pytest.raises(PromptError, match=r"'ioi' has \d+ prompts, not 100000"):
        prompts.load("ioi:100000")
    with pytest.raises(PromptError, match=r"not 0\."):
        prompts.load("ioi:0")


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    a, b = Prompt(text="a"), Prompt(text="a", answer="b")
    assert a.content_hash != b.content_hash
    assert a.content_hash == Prompt(text="a").content_hash
    first = PromptSet(name="x", prompts=(a, b))
    assert first.content_hash == PromptSet(name="y", prompts=(a, b)).content_hash
    assert first.content_hash != PromptSet(name="x", prompts=(b, a)).content_hash


def test_what_looks_like_a_line_end_within_a_prompt_stays(tmp_path: Path) -> None:
    csv_file = tmp_path / "two_lines.csv"
    csv_file.write_text('text,answer\n"the capital of\nfrance is",paris\n')
    assert prompts.load(csv_file).prompts[0].text == "the capital of\nfrance is"
    text_file = tmp_path / "separators.txt"
    text_file.write_text("a\u2028b\r\nc\x0cd\n", "utf-8")
    assert [prompt.text for prompt in prompts.load(text_file).prompts] == ["a\u2028b", "c\x0cd"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("blank.jsonl", '{"text": "a", "answer": ""}', r"answer is empty; leave it out"),
        ("half.jsonl", '{"text": "\\ud800"}', r"text has half a character"),
        ("deep.json", "[" * 100_000, r"deep\.json, line 1: it is nested too deeply"),
        ("empty.txt", "\n \n", r"The prompt set 'empty' is empty"),
        ("empty.json", "[]", r"The prompt set 'empty' is empty"),
        ("broken.json", "[{", r"broken\.json, line 1: no JSON, "),
        ("object.json", '{"text": "a"}', r"expected a list of prompts"),
        ("number.jsonl", "3", r"number\.jsonl, line 1: 3 is neither a text nor an object"),
        ("no_text.jsonl", '{"answer": "a"}', r"no_text\.jsonl, line 1: it has no text"),
        ("typo.jsonl", '{"text": "a", "anser": "b"}', r"No prompt role .*'anser'.*'answer'"),
        ("type.jsonl", '{"text": "a", "answer": 3}', r"answer is 3, not text"),
        ("chat.jsonl", '{"text": "a", "template": "chta"}', r"template is 'chta', not raw or chat"),
        ("ids.jsonl", '{"text": "a", "token_ids": ["b"]}', r"not a list of token ids"),
        ("notes.md", "a", r"expected one of \.txt \.csv \.jsonl \.json"),
        ("wide.csv", "text\na,b\n", r"wide\.csv, line 2: 2 fields under a header of 1"),
        ("short.csv", "text,answer\na\n", r"short\.csv, line 2: 1 fields under a header of 2"),
        ("two.csv", "text,text\na,b\n", r"two\.csv, line 1: two columns are named 'text'"),
        ("other.csv", "text,target\na,b\n", r"line 1: .*--columns answer=target"),
        ("other.jsonl", '\n{"q": "a"}', r"other\.jsonl, line 2: .*--columns text=q"),
        ("keys.json", '[{"text": "a"},\n{"text": "b", "text": "c"}]', r"line 2: the key 'text'"),
        ("nan.jsonl", '{"text": "a", "answer": NaN}', r"nan\.jsonl, line 1: NaN is no value"),
        ("third.jsonl", '{"text": "a"}\n\n{"text": "b"\n', r"third\.jsonl, line 3: no JSON"),
        ("tasks.csv", "task,x,y\nt,a,b\n", r"these are pairs of tasks.* -p tasks=.*tasks\.csv"),
        ("tasks.json", '{"t": [["a", "b"]]}', r"-p tasks=.*tasks\.json"),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises((PromptError, UnknownNameError), match=message) as caught:
        prompts.load(path)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(PromptError, match=r"latin\.txt, line 1: it is not UTF-8"):
        prompts.load(tmp_path / "latin.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(PromptError, match="Is a directory"):
        prompts.load(tmp_path / "folder.txt")
    with pytest.raises(PromptError, match="No such file"):
        prompts.load(tmp_path / "absent.txt")


def test_an_unknown_set_is_answered_with_close_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"No prompt set named 'fcats'. .*'facts'"):
        prompts.load("fcats")


def test_a_missing_role_is_named() -> None:
    lacking = PromptSet(name="x", prompts=(Prompt(text="a", answer="b"), Prompt(text="c")))
    lacking.require([], "e")
    with pytest.raises(PromptError, match=r"e needs answer with every prompt; prompt 2 of 'x'"):
        lacking.require(["answer"], "e")
