"""Prompts from files of other columns, into the database under a name, and out again."""

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mlux import prompts, run_experiment
from mlux.errors import PromptError, StoreError, UnknownNameError
from mlux.prompts import Prompt, PromptSet
from mlux.store import Store, file_prompt_set, find_prompt_set, list_prompt_sets, query

PAGE = Path(__file__).parents[1] / "docs" / "prompts.md"
Cli = Callable[..., "subprocess.CompletedProcess[str]"]  # the fixture of conftest.py
TWO = PromptSet(
    name="two",
    prompts=(Prompt(text="a\nb", answer="c, d"), Prompt(text="é", label="x", template="chat")),
)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_what_is_saved_is_loaded(suffix: str, tmp_path: Path) -> None:
    prompts.save(TWO, tmp_path / f"two{suffix}")
    assert prompts.load(tmp_path / f"two{suffix}") == TWO
    for name in ("ioi", "requests", "reviews"):
        shipped = prompts.load(name)
        prompts.save(shipped, tmp_path / f"{name}{suffix}")
        assert prompts.load(tmp_path / f"{name}{suffix}").prompts == shipped.prompts


def test_token_ids_are_saved_where_there_is_a_place(tmp_path: Path) -> None:
    ids = PromptSet(name="ids", prompts=(Prompt(text="a", token_ids=(1, 2)),))
    prompts.save(ids, tmp_path / "ids.jsonl")
    assert prompts.load(tmp_path / "ids.jsonl") == ids
    with pytest.raises(PromptError, match=r"no place for token ids; write a \.jsonl"):
        prompts.save(ids, tmp_path / "ids.csv")
    with pytest.raises(PromptError, match=r"expected \.jsonl \.json \.csv"):
        prompts.save(ids, tmp_path / "ids.txt")
    with pytest.raises(PromptError, match="No such file or directory"):
        prompts.save(ids, tmp_path / "nowhere" / "ids.json")


def test_a_column_that_no_line_has_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "mary lives in", "target": "paris"}\n')
    with pytest.raises(UnknownNameError, match=r"'tarjet'\. Did you mean 'target'\?"):
        prompts.load(path, {"text": "question", "answer": "tarjet"})


def test_columns_are_given_their_roles(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"id": 7, "question": "1 + 1 is", "target": 2, "text": "no", "label": "sum"}')
    columns = {"text": "question", "answer": "target"}
    assert prompts.load(path, columns).prompts == (
        Prompt(text="1 + 1 is", answer="2", label="sum"),
    )
    assert prompts.load(f"{path}:1", columns).prompts[0].answer == "2"
    with pytest.raises(UnknownNameError, match=r"No column of .* named 'questoin'. Did you"):
        prompts.load(path, {"text": "questoin"})
    with pytest.raises(UnknownNameError, match=r"No prompt role named 'txt'.*'text'"):
        prompts.load(path, {"txt": "question"})


def test_a_set_in_the_notebook_is_found_by_its_name(fresh_db: Path) -> None:
    location = str(fresh_db)
    with pytest.raises(UnknownNameError, match="No prompt set named 'two'"):
        find_prompt_set("two", location)
    with Store.open(fresh_db, write=True) as store:
        file_prompt_set(store, TWO)
        file_prompt_set(store, TWO)
        (listed,) = list_prompt_sets(store)
        assert (listed["name"], listed["prompts"], listed["description"]) == ("two", 2, "")
        assert listed["roles"] == "text answer label template"
        other = PromptSet(name="two", prompts=TWO.prompts[:1])
        with pytest.raises(StoreError, match=r"other prompts under the name 'two'.*--name NAME"):
            file_prompt_set(store, other)
        with pytest.raises(StoreError, match="'ioi' ships with mlux"):
            file_prompt_set(store, PromptSet(name="ioi", prompts=TWO.prompts))
    assert find_prompt_set("two", location) == TWO
    assert find_prompt_set("two:1", location).prompts == TWO.prompts[:1]
    assert find_prompt_set("ioi:2", location) == prompts.load("ioi:2")
    with pytest.raises(UnknownNameError, match=r"named 'tow'\. Did you mean 'two'"):
        find_prompt_set("tow", location)


def test_a_run_takes_prompts_of_its_notebook(fresh_db: Path) -> None:
    with Store.open(fresh_db, write=True) as store:
        file_prompt_set(store, PromptSet(name="mine", prompts=prompts.load("facts:3").prompts))
    run_experiment("logit_lens", model="demo", prompts="mine:2", db=fresh_db)
    with Store.open(fresh_db) as store:
        _, rows = query(store, "SELECT prompt_set FROM run_overview")
    assert [row[0] for row in rows] == ["mine:2"]


def test_a_file_that_is_no_notebook_is_said(tmp_path: Path) -> None:
    (tmp_path / "mlux.db").write_text("dear diary")
    with pytest.raises(StoreError):
        find_prompt_set("mine", str(tmp_path / "mlux.db"))


@pytest.mark.slow
def test_the_page_works_as_it_is_written(cli: Cli, tmp_path: Path) -> None:
    page = PAGE.read_text("utf-8")
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL))
    (tmp_path / "questions.csv").write_text(blocks["csv"], "utf-8")
    for line in blocks["sh"].splitlines():
        done = cli(*shlex.split(line)[1:], cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert prompts.load(tmp_path / "capitals.jsonl").prompts[1].wrong_answer == "paris"
    listed = cli("prompts", "list", cwd=tmp_path).stdout
    assert re.search(r"capitals +2 +database", listed)
    exec(blocks["python"])
    refused = cli("run", "logit_lens", "-m", "demo", "--columns", "text=a", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--columns names the columns of a file" in refused.stderr
