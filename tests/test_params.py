"""Options from text: typed by the config, and one clear line for what does not fit."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from mlux.errors import ParameterError, UnknownNameError
from mlux.params import as_text, build


@dataclass(frozen=True, kw_only=True)
class Config:
    count: int = 5
    rate: float = 0.5
    flag: bool = False
    name: str = "x"
    where: Literal["last", "all"] = "last"
    layers: tuple[int, ...] = (1, 2)
    limit: int | None = None
    texts: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is {self.count}; expected at least 1")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "7", 7),
        ("count", 7, 7),
        ("rate", "1e-3", 1e-3),
        ("rate", 2, 2.0),
        ("flag", "yes", True),
        ("flag", "False", False),
        ("flag", True, True),
        ("name", "any text", "any text"),
        ("where", "all", "all"),
        ("layers", "3, 4,5", (3, 4, 5)),
        ("layers", [3], (3,)),
        ("limit", "none", None),
        ("limit", "3", 3),
        ("texts", '["sorry, no", " I"]', ("sorry, no", "I")),
        ("texts", "[1]", ("[1]",)),
    ],
)
def test_text_becomes_the_options_type(name: str, text: Any, value: Any) -> None:
    config = build(Config, {name: text}, experiment="e")
    assert getattr(config, name) == value
    assert type(getattr(config, name)) is type(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 1e-07),
        ("flag", True),
        ("name", "none"),
        ("layers", (3, 4)),
        ("limit", None),
        ("texts", None),
        ("texts", ("none",)),
        ("texts", ("",)),
        ("texts", ("a", "b c")),
        ("texts", ("sorry, no", "I cannot\n", "[")),
        ("texts", ('["a"]',)),
    ],
)
def test_an_option_as_text_is_read_as_the_same_option(name: str, value: Any) -> None:
    given = build(Config, {name: value}, experiment="e")
    text = as_text(getattr(given, name))
    assert build(Config, {name: text}, experiment="e") == given


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("count", "seven", "e: count='seven' is not a whole number."),
        ("count", "1.5", "e: count='1.5' is not a whole number."),
        ("count", True, "e: count=True is not a whole number."),
        ("rate", "fast", "e: rate='fast' is not a number."),
        ("flag", "maybe", "e: flag='maybe' is not true or false."),
        ("where", "lsat", "e: where='lsat' is not one of: last, all."),
        ("layers", "1,b", "e: layers='1,b' is not a comma-separated list, each a whole number."),
        ("limit", "few", "e: limit='few' is not a whole number or none."),
        ("count", "0", "e: count is 0; expected at least 1"),
        (
            "count",
            "9" * 12,
            "e: count='999999999999' is too large; expected at most 1,000,000,000.",
        ),
        (
            "limit",
            "9" * 12,
            "e: limit='999999999999' is too large; expected at most 1,000,000,000.",
        ),
        ("rate", "nan", "e: rate='nan' is not a finite number."),
        ("rate", "-inf", "e: rate='-inf' is not a finite number."),
        ("rate", 10**400, f"e: rate=1{'0' * 56}… is too large."),
    ],
)
def test_a_value_that_does_not_fit_is_said(name: str, text: Any, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        build(Config, {name: text}, experiment="e")
    assert str(caught.value) == message


def test_an_unknown_option_is_answered_with_close_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"No parameter of e named 'cuont'. .*'count'"):
        build(Config, {"cuont": "1"}, experiment="e")


def test_an_option_without_a_default_is_asked_for() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Needs:
        site: str

    with pytest.raises(ParameterError, match="e needs a value for site: -p site=…"):
        build(Needs, {}, experiment="e")
