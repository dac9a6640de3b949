"""The language of `--where` means what it says, on both backends, and never reaches the SQL."""

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fuzzing import everything
from synthetic import make_model, make_spec, write_run

from mlux import compare
from mlux.errors import ParameterError
from mlux.store import Store, create_run, list_runs
from mlux.store.where import Comparison, Junction, Not, parse

RUNS = [
    {"params": {"top_k": 5, "site": "resid", "on": True}, "tags": {"paper": "fv"}, "seed": 0},
    {"params": {"top_k": 2, "site": "head", "layers": [0, 2]}, "tags": {}, "note": "50% of_it"},
    {"params": {"top_k": 3.5, "raw": None}, "tags": {"paper": "IOI"}, "model": "gemma-2"},
    {"params": {"site": 'Résid "x"'}, "tags": {"paper": "fv", "a b": "1"}, "seed": 7},
]


def fill(store: Store) -> list[str]:
    """Files the four runs above; their uids."""
    uids = []
    for run in RUNS:
        changes = {"note": None, **run}
        name = changes.pop("model", "toy")
        spec = make_spec(model=make_model(name, weights_hash=name), **changes)
        uids.append(create_run(store, spec))
    return uids


MEANINGS = (
    ("model ~ 'gemma' and params.top_k > 3 and tags.paper = 'IOI'", [2]),
    ("model ~ 'GEMMA'", [2]),
    ("model = 'GEMMA-2'", []),
    ("params.top_k > 3", [0, 2]),
    ("params.top_k = 5 or params.top_k = 2 and seed = 1", [0]),
    ("(params.top_k = 5 or params.top_k = 2) and seed = 0", [0, 1]),
    ("not params.top_k > 3", [1, 3]),
    ("params.top_k != 5", [1, 2, 3]),
    ("params.top_k in (2, 3.5)", [1, 2]),
    ("params.top_k not in (2, 3.5)", [0, 3]),
    ("params.top_k is null", [3]),
    ("params.raw is null", [0, 1, 2, 3]),
    ("params.raw is not null", []),
    ("params.on = true", [0]),
    ("params.on = false", []),
    ("params.site = 'resid'", [0]),
    ("params.site ~ 'résid'", [3]),
    ("params.site ~ 'sid'", [0, 3]),
    ("params.site = 'Résid \"x\"'", [3]),
    ('params.site = "Résid ""x"""', [3]),
    ("params.site > 'i'", [0]),
    ("params.layers = '[0, 2]'", [1]),
    ("tags.paper = 'fv'", [0, 3]),
    ("tags.paper != 'fv'", [1, 2]),
    ("tags.paper is null", [1]),
    ("tags.paper is not null", [0, 2, 3]),
    ("tags.\"a b\" = '1'", [3]),
    ("note ~ '50%'", [1]),
    ("note ~ '%'", [1]),
    ("note ~ 'f_i'", [1]),
    ("note ~ '5_'", []),
    ("note ~ ''", [1]),
    ("not note ~ 'x'", [0, 1, 2, 3]),
    ("seed < 7 and seed >= 0", [0, 1, 2]),
    ("seed = 7.0", [3]),
    ("seed = 99999999999999999999999", []),
    ("seed < 1e999", [0, 1, 2, 3]),
    ("trials = 4 and done = 0", [0, 1, 2, 3]),
    ("status = 'queued' AND NOT error IS NOT NULL", [0, 1, 2, 3]),
    ("created > '2020' and created_at < '2999-01-01'", [0, 1, 2, 3]),
    ("prompts = 'capitals' and prompt_set ~ 'cap'", [0, 1, 2, 3]),
    ("MODEL == 'toy' and seed <> 7", [0, 1]),
    ("model = 'x'' or 1=1 --'", []),
)
"""A condition, and which of the four runs fulfil it."""


def test_what_a_condition_means(store: Store) -> None:
    uids = fill(store)
    for condition, wanted in MEANINGS:
        found = [run["run"] for run in list_runs(store, where=condition)]
        assert found == [uids[index] for index in reversed(wanted)], condition


def test_it_goes_together_with_the_other_filters(store: Store) -> None:
    uids = fill(store)
    where = "params.top_k > 1"
    assert [run["run"] for run in list_runs(store, where=where, tag="paper=fv")] == [uids[0]]
    assert len(list_runs(store, where=where, limit=2)) == 2
    assert list(compare.runs(store, where="seed = 7")["run"]) == [uids[3]]
    done = write_run(store)
    assert [run["run"] for run in list_runs(store, where="status = 'done'")] == [done]


COMPLAINTS = (
    ("", "the condition is empty"),
    (" \n", "the condition is empty"),
    ("modle = 'x'", r"character 1: No column named 'modle'. Did you mean 'model'\?"),
    ("seed = 1 and tops.k = 2", "character 14: No column named 'tops.k'"),
    ("params.topk = 3", r"No parameter of a run named 'topk'. Did you mean 'top_k'\?"),
    ("tags.papr = 'x'", r"No tag of a run named 'papr'. Did you mean 'paper'\?"),
    ("model = toy", "character 9: expected a value, but found 'toy'. Text stands in quotes"),
    ("model = 'x", "character 9: a quote is opened here and not closed"),
    ("seed = 'x'", "seed is a number; 'x' is none"),
    ("seed = true", "seed is a number; True is none"),
    ("seed ~ 'x'", "seed is a number; ~ looks into text"),
    ("model = 3", "model is text; put its value in quotes"),
    ("tags.paper = 3", "tags.paper is text; put its value in quotes"),
    ("params.on > true", "true and false have no order"),
    ("params.on ~ true", "params.on is text; put its value in quotes"),
    ("(seed = 1", r"character 10: expected and, or, or \), but the condition ends"),
    ("seed = 1)", r"character 9: expected and, or, or the end, but found '\)'"),
    ("seed = 1 adn seed = 2", r"found 'adn'. Did you mean 'and'\? In: seed = 1 ▸ adn seed"),
    ("seed && 1", "cannot read '&'. Write: and"),
    ("seed ! 1", "cannot read '!'. Write: not, or !="),
    ("seed = “1”", "Use plain quotes"),
    ("seed", "expected one of = != < <= > >= ~, in, is, but the condition ends"),
    ("seed is 3", "expected null, but found '3'"),
    ("seed not 3", "expected in, but found '3'"),
    ("seed in 3", r"expected \( and the values"),
    ("seed in ()", r"expected a value, but found '\)'"),
    ("seed in (1", r"expected , or \), but the condition ends"),
    ("seed = 1abc", "cannot read '1'"),
    ("3 = seed", "expected a column, params.NAME or tags.NAME, but found '3'"),
    ("seed = 1; drop table runs", "cannot read ';'"),
    ("model = '\0'", "a character that no database can hold"),
    ("model = '\ud800'", "a character that no database can hold"),
    ("not " * 60 + "seed = 1", "more than 20 levels of nesting"),
    ("(" * 60 + "seed = 1" + ")" * 60, "more than 20 levels of nesting"),
    (" or ".join(["seed = 1"] * 201), "more than 200 comparisons"),
    ("seed = 1 or " * 1000, "12000 characters are too many"),
)


def test_what_cannot_be_read_is_pointed_at(store: Store) -> None:
    fill(store)
    for condition, complaint in COMPLAINTS:
        with pytest.raises(ParameterError, match=complaint) as error:
            list_runs(store, where=condition)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 250


def test_as_many_comparisons_as_are_allowed_are_answered(store: Store) -> None:
    uids = fill(store)
    for word in ("or", "and"):
        where = f" {word} ".join(["(seed = 7)"] * 200)
        assert [run["run"] for run in list_runs(store, where=where)] == [uids[3]]
    for nested in (
        "not " * 20 + "seed = 7",
        "not (" * 10 + "params.site = 'Résid \"x\"'" + ")" * 10,
        "(seed = 7 and " * 20 + "seed not in (1) and tags.paper = 'fv'" + ")" * 20,
        "(seed = 1 or " * 20 + "tags.paper = 'fv' and seed = 7" + ")" * 20,
    ):
        assert [run["run"] for run in list_runs(store, where=nested)] == [uids[3]], nested


# --- against a simple model of what a condition means ---

FIELDS = ("model", "note", "seed", "trials", "params.top_k", "params.site", "tags.paper")
TEXTS = ("toy", "gemma-2", "GEM", "resid", "fv", "ioi", "%", "_", "", "'", "50% of_it", "head")
NUMBERS = (0, 2, 3.5, 5, 7, -1, 4, 1e30)


def some_condition(rng: random.Random, depth: int = 0) -> Any:
    """A condition as a tree of the parser."""
    if depth < 4 and rng.random() < 0.5:
        if rng.random() < 0.3:
            return Not(of=some_condition(rng, depth + 1))
        parts = tuple(some_condition(rng, depth + 1) for _ in range(rng.randint(2, 3)))
        return Junction(word=rng.choice(["and", "or"]), parts=parts)
    field = rng.choice(FIELDS)
    numeric = field in ("seed", "trials", "params.top_k")
    operators = ["=", "!=", "<", "<=", ">", ">=", "in", "null"]
    operator = rng.choice(operators if numeric else [*operators, "~"])
    count = {"null": 0, "in": rng.randint(1, 4)}.get(operator, 1)
    values = tuple(rng.choice(NUMBERS if numeric else TEXTS) for _ in range(count))
    return Comparison(field=field, operator=operator, values=values, at=0)


def written(condition: Any, rng: random.Random) -> str:
    if isinstance(condition, Junction):
        word = f" {rng.choice([condition.word, condition.word.upper()])} "
        return f"({word.join(written(part, rng) for part in condition.parts)})"
    if isinstance(condition, Not):
        return f"not {written(condition.of, rng)}"
    space = rng.choice(["", " ", "\n\t"])
    values = [
        "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)
        for value in condition.values
    ]
    if condition.operator == "null":
        return f"{condition.field} is null"
    if condition.operator == "in":
        return f"{condition.field} in ({','.join(values)})"
    return f"{condition.field}{space}{condition.operator}{space}{values[0]}"


def holds(condition: Any, run: dict[str, Any]) -> bool:
    if isinstance(condition, Junction):
        return (all if condition.word == "and" else any)(holds(p, run) for p in condition.parts)
    if isinstance(condition, Not):
        return not holds(condition.of, run)
    group, _, name = condition.field.partition(".")
    value = run[group].get(name) if name else run[group]
    if condition.operator == "null":
        return value is None
    if condition.operator == "!=":
        return value != condition.values[0]
    if value is None:
        return False
    if condition.operator == "in":
        return value in condition.values
    wanted = condition.values[0]
    if condition.operator == "~":
        text = json.dumps(value) if group == "params" else value
        return lower(wanted) in lower(text)
    tests: dict[str, Callable[[Any, Any], bool]] = {
        "=": lambda a, b: a == b,
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
    }
    return tests[condition.operator](value, wanted)


def lower(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


def check_against_the_model(store: Store, conditions: int, seed: int) -> None:
    fill(store)
    runs = list_runs(store)
    rng = random.Random(seed)
    for _ in range(conditions):
        condition = some_condition(rng)
        text = written(condition, rng)
        found = [run["run"] for run in list_runs(store, where=text)]
        assert found == [run["run"] for run in runs if holds(condition, run)], text


def test_it_agrees_with_a_simple_model(store: Store) -> None:
    check_against_the_model(store, 150, seed=0)


@pytest.mark.soak
def test_it_agrees_with_a_simple_model_at_length(store: Store) -> None:
    check_against_the_model(store, 2000, seed=1)


# --- fuzz ---

WORDS = (
    *("model", "seed", "params.top_k", "tags.paper", "note", "status", "params.", "tags", ".", "x"),
    *("and", "or", "not", "in", "is", "null", "true", "false", "=", "!=", "<", "<=", ">", "~", ","),
    *(
        "(",
        ")",
        "'fv'",
        '"fv"',
        "''",
        "3",
        "-1.5e3",
        "1e999",
        "'",
        '"',
        "--",
        "/*",
        ";",
        ":where_0",
    ),
    *(
        "'x' OR 1=1",
        "') OR ('1'='1",
        "UNION SELECT 1",
        "DROP TABLE runs",
        "\\",
        "%",
        "_",
        "%s",
        "?",
    ),
    *("é", "\0", "\ud800", "\u2028", 'params."a\'b"', 'tags."x""y"', "$1", "{}", "\n"),
)


def some_text(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.2:
        return written(some_condition(rng), rng)
    if kind < 0.6:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, 12)))
    if kind < 0.9:
        text = list(written(some_condition(rng), rng))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text) + 1)
            text[at : at + rng.randint(0, 3)] = rng.choice(WORDS)
        return "".join(text)
    return "".join(chr(rng.choice([rng.randrange(128), rng.randrange(0x3000)])) for _ in range(30))


@contextmanager
def nothing_changes(store: Store) -> Iterator[None]:
    before = everything(store)
    yield
    assert everything(store) == before


def fuzz(store: Store, inputs: int, seed: int) -> None:
    fill(store)
    rng = random.Random(seed)
    answered = 0
    with nothing_changes(store):
        for _ in range(inputs):
            text = some_text(rng)
            try:
                found = list_runs(store, where=text)
            except ParameterError as error:
                assert "\n" not in str(error) or "\n" in text  # noqa: PT017 # a message is one line
            else:
                answered += 1
                assert len(found) <= len(RUNS)
    # Not all of it is refused at the first word.
    assert answered > inputs / 10


def test_no_text_can_write_or_crash_it(store: Store) -> None:
    fuzz(store, 400, seed=0)


@pytest.mark.soak
def test_ten_thousand_texts_can_neither_write_nor_crash_it(store: Store) -> None:
    fuzz(store, 10_000, seed=1)


def test_a_tree_is_small_and_plain() -> None:
    assert parse("not a ~ 'x' and b in (1, 2)") == Junction(
        word="and",
        parts=(
            Not(of=Comparison(field="a", operator="~", values=("x",), at=4)),
            Comparison(field="b", operator="in", values=(1, 2), at=16),
        ),
    )
