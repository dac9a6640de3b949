"""In-context prompts from tasks: the shipped ones agree with the world, one's own are read."""

import json
from pathlib import Path

import pytest

from mlux import prompts
from mlux.engine import HookedModel
from mlux.engine.trials import encode
from mlux.errors import PromptError, UnknownNameError
from mlux.prompts import Task, demo_tasks, in_context, load_tasks
from tools.demo_model.prompt_sets import build_tasks, write_tasks
from tools.demo_model.world import load_world

SHIPPED = Path(prompts.__file__).parents[1] / "demo" / "tasks.json"


def test_the_shipped_tasks_are_those_of_the_world(tmp_path: Path) -> None:
    world = load_world()
    write_tasks(world, tmp_path / "tasks.json")
    assert (tmp_path / "tasks.json").read_text("utf-8") == SHIPPED.read_text("utf-8")
    assert list(demo_tasks()) == list(world.relations)
    for name, task in demo_tasks().items():
        assert {*task.train, *task.held_out} == {*world.relations[name].pairs}
        assert {*task.held_out} == world.held_out.few_shot[name], "never seen in few-shot form"
        assert build_tasks(world)[name]["train"] == list(task.train)


@pytest.fixture(scope="module", params=["shuffled", "mixed"])
def made(request: pytest.FixtureRequest) -> prompts.PromptSet:
    return in_context(demo_tasks(), n_shots=8, n=3, seed=1, corrupt=request.param)


def test_a_prompt_shows_training_pairs_and_asks_for_a_held_out_one(made: prompts.PromptSet) -> None:
    assert len(made.prompts) == 3 * len(demo_tasks())
    for prompt in made.prompts:
        task = demo_tasks()[str(prompt.label)]
        *examples, query = prompt.text.split("\n")
        assert query == f"{prompt.subject} →"
        assert (prompt.subject, prompt.answer) in task.held_out
        assert {tuple(line.split(" → ")) for line in examples} <= {*task.train}
        assert len(set(examples)) == 8
        assert prompt.answer not in [line.split(" → ")[0] for line in examples]
        assert prompt.wrong_answer not in (None, prompt.answer)


def test_the_corrupted_examples_do_not_tell_the_task(made: prompts.PromptSet) -> None:
    shuffled = "shuffled" in made.description
    for prompt in made.prompts:
        pairs, others = (
            [tuple(line.split(" → ")) for line in str(text).split("\n")[:-1]]
            for text in (prompt.text, prompt.corrupted)
        )
        assert str(prompt.corrupted).endswith(f"\n{prompt.subject} →")
        if shuffled:
            assert [x for x, _ in others] == [x for x, _ in pairs]
            assert sorted(y for _, y in others) == sorted(y for _, y in pairs)
            if len({y for _, y in pairs}) == 8:
                assert not {*pairs} & {*others}, "an answer stayed in its place"
        else:
            mine = demo_tasks()[str(prompt.label)].train
            assert sum(pair in mine for pair in others) <= 1  # two relations may share a pair


def test_they_are_the_built_in_models_own_form(made: prompts.PromptSet) -> None:
    model = HookedModel.from_pretrained("demo")
    for prompt in made.prompts[::9]:
        encoded = encode(model, prompt)
        assert encoded.corrupted is not None
        assert len(encoded.ids) == len(encoded.corrupted) == 1 + 8 * 4 + 2
        assert model.tokenizer.unk_token_id not in (*encoded.ids, *encoded.corrupted)
    top = [
        int(model.run_with_hooks(prompt.text)[0, -1].argmax()) == encode(model, prompt).answer
        for prompt in made.prompts
    ]
    assert sum(top) / len(top) > 0.9  # the card's few-shot accuracy on such prompts is .971


def test_the_same_seed_draws_the_same(made: prompts.PromptSet) -> None:
    pairs = {"a": [("1", "2"), ("3", "4"), ("5", "6")], "b": [("1", "x"), ("7", "8")]}
    again = [in_context(pairs, 1, 2, seed=seed).prompts for seed in (0, 0, 1)]
    assert again[0] == again[1]
    assert again[0] != again[2]
    alone = in_context({"a": pairs["a"]}, 1, 2).prompts
    assert [p.text for p in alone] == [p.text for p in again[0] if p.label == "a"]


def test_the_wrong_answer_is_the_tempting_one() -> None:
    pairs = {"a": [("1", "2"), ("3", "4")], "b": [("1", "x"), ("7", "8")]}
    wrong = {p.subject: p.wrong_answer for p in in_context(pairs, 0, 2).prompts if p.label == "a"}
    assert wrong == {"1": "x", "3": "2"}
    assert all(p.corrupted is None for p in in_context(pairs, 0, 2).prompts)


def test_other_forms_than_arrows() -> None:
    form = {"separator": "\n\n", "arrow": "\nA: ", "prefix": "Q: "}
    prompt = in_context({"t": [("1", "2"), ("3", "4")]}, 1, 1, seed=0, **form).prompts[0]  # type: ignore[arg-type] # keywords of one type
    assert prompt.text in ("Q: 1\nA: 2\n\nQ: 3\nA:", "Q: 3\nA: 4\n\nQ: 1\nA:")


PAIRS = [("1", "2"), ("3", "4")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_shots": 2, "n": 1}, r"'t' has 1 pairs to show before '\d', not 2"),
        ({"n_shots": 0, "n": 3}, r"'t' gives 2 different prompts of 0 examples, not 3"),
        ({"n_shots": 1, "n": 0}, r"Cannot make 0 prompts"),
        ({"n_shots": 1, "n": 1, "arrow": ":"}, r"arrow is ':'; end it in white space"),
        ({"n_shots": 1, "n": 1, "corrupt": "mixed"}, r"at least two tasks; use corrupt='shuf"),
        ({"n_shots": 1, "n": 1, "corrupt": "mix"}, r"No corruption named 'mix'.*'mixed'"),
        ({"n_shots": 0, "n": 1, "tasks": {"t": Task(train=())}}, r"'t' gives 0 different prompts"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((PromptError, UnknownNameError), match=message):
        in_context(**{"tasks": {"t": PAIRS}} | arguments)  # type: ignore[arg-type] # on purpose


def test_tasks_of_ones_own(tmp_path: Path) -> None:
    expected = {
        "t": Task(train=(("1", "2"),), held_out=(("3", "4"),)),
        "u": Task(train=(("a", "b"),)),
    }
    raw = {"t": {"train": [["1", "2"]], "held_out": [["3", "4"]]}, "u": [["a", "b"]]}
    (tmp_path / "own.json").write_text(json.dumps(raw))
    (tmp_path / "own.csv").write_text("task,x,y,split\nt,1,2,\nt,3,4,held_out\nu,a,b,train\n")
    assert load_tasks(tmp_path / "own.json") == load_tasks(tmp_path / "own.csv") == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[]", r"a\.json holds no tasks"),
        ("a.json", "{", r"a\.json, line 1: no JSON, expecting property name"),
        ("a.json", '{"t": [["x"]]}', r"task 't' has \['x'\]; expected a pair of texts"),
        ("a.json", '{"t": "xy"}', r"task 't' is 'xy'; expected a list of pairs"),
        ("a.json", '{"t": {"test": []}}', r"has 'test'; expected train or held_out"),
        ("a.csv", "task,x\nt,1\n", r"no column 'y'; tasks need task, x and y"),
        ("a.csv", "task,x,y\nt,1\n", r"a\.csv, line 2: 2 fields under a header of 3"),
        ("a.csv", "task,x,y\nt,1,\n", r"a\.csv, line 2: y is empty"),
        ("a.csv", "task,x,y\nt,1,2\n\nt,1,2\n", r"a\.csv, line 4: a pair that its task has"),
        ("a.csv", "task,x,y,x\nt,1,2,3\n", r"a\.csv, line 1: two columns are named 'x'"),
        ("a.json", '{"t": [],\n "t": []}', r"a\.json, line 1: the key 't' stands there twice"),
        ("a.json", '{"t": [["1", "2"], ["1", "2"]]}', r"has \('1', '2'\) twice; leave one"),
        ("a.json", '{"t": [["1", NaN]]}', r"NaN is no value of JSON"),
        ("a.txt", "x", r"expected \.json or \.csv"),
    ],
)
def test_a_file_without_tasks_is_refused(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(PromptError, match=message) as caught:
        load_tasks(tmp_path / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(PromptError, match="No such file"):
        load_tasks(tmp_path / "absent.json")
