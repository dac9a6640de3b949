"""The language of `--where`: a condition on runs, read into a small tree.

    condition   = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | "(" condition ")" | comparison
    comparison  = field operator value
                | field ["not"] "in" "(" value { "," value } ")"
                | field "is" ["not"] "null"
    field       = NAME | "params." NAME | "tags." NAME          NAME may stand in "quotes"
    operator    = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~"
    value       = 'text' | "text" | number | "true" | "false"

`~` is "contains", whatever the case of the letters. What a run lacks is equal to nothing: it
fulfils `!=` and `not in`, and no other comparison. `where_sql` turns the tree into SQL.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NoReturn, TypeAlias

from mlux.errors import ParameterError

Value: TypeAlias = str | int | float | bool

LONGEST = 10_000
"""Characters of a condition; a longer one is a mistake, and SQLite has limits of its own."""

# SQLite reads SQL with a stack of 100 entries, of which a level here takes up to three.
_DEEPEST = 20
_MOST = 200
_WORD = re.compile(
    r"""\s*(?:
      (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    | (?P<name>[^\W\d]\w*(?:\.(?:[\w-]+|"(?:[^"]|"")*"))*)
    | (?P<sign><=|>=|!=|<>|==|[=<>~(),])
    )""",
    re.VERBOSE,
)
_OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "~")
_ALSO = {"==": "=", "<>": "!="}
_KEYWORDS = ("and", "or", "not", "in", "is", "null", "true", "false")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A field and what it is compared with.

    Attributes:
        field: As written: `model`, `params.top_k`, `tags.paper`.
        operator: One of `= != < <= > >= ~`, `in` or `null`.
        values: What it is compared with; of `in` any number, of `null` none.
        at: Where the field stands, from 0.
    """

    field: str
    operator: str
    values: tuple[Value, ...]
    at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Not:
    """The opposite."""

    of: "Condition"


@dataclass(frozen=True, kw_only=True, slots=True)
class Junction:
    """Several conditions joined by `and`, or by `or`."""

    word: str
    parts: tuple["Condition", ...]


Condition: TypeAlias = Comparison | Not | Junction


@dataclass(frozen=True, slots=True)
class _Word:
    kind: str
    text: str
    at: int


def parse(text: str) -> Condition:
    """A condition as a tree.

    Raises:
        ParameterError: If it cannot be read; the message says where and why.

    Example:
        >>> parse("model ~ 'gemma'")
        Comparison(field='model', operator='~', values=('gemma',), at=0)
    """
    if len(text) > LONGEST:
        raise ParameterError(f"where: {len(text)} characters are too many; {LONGEST} is the most.")
    if not text.strip():
        raise ParameterError("where: the condition is empty. Try: where \"status = 'done'\"")
    parser = _Parser(text)
    found = parser.condition(0)
    if parser.next.kind != "end":
        parser.expect("and, or, or the end")
    return found


def complain(text: str, at: int, message: str) -> NoReturn:
    """Raises ParameterError with a piece of the condition around the place."""
    before, after = text[max(0, at - 20) : at], text[at : at + 20]
    shown = f"{'…' if at > 20 else ''}{before} ▸ {after}{'…' if at + 20 < len(text) else ''}"
    raise ParameterError(f"where, character {at + 1}: {message} In: {' '.join(shown.split())}")


class _Parser:
    """Reads word by word; `next` is the one that was not yet taken."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._words = self._split()
        self._comparisons = 0
        self.next = next(self._words)

    def _split(self) -> Iterator[_Word]:
        at, end = 0, len(self._text.rstrip())
        while at < end:
            match = _WORD.match(self._text, at)
            if match is None:
                self._cannot_split(at + len(self._text[at:]) - len(self._text[at:].lstrip()))
            kind = match.lastgroup or ""
            word = match[kind]
            if kind == "name" and word.lower() in _KEYWORDS:
                kind, word = word.lower(), word.lower()
            yield _Word(kind, _ALSO.get(word, word), match.start(match.lastgroup or 0))
            at = match.end()
        yield _Word("end", "the end", end)

    def _cannot_split(self, at: int) -> NoReturn:
        seen = self._text[at]
        if seen in "'\"":
            complain(self._text, at, "a quote is opened here and not closed.")
        advice = {
            "&": " Write: and.",
            "|": " Write: or.",
            "!": " Write: not, or !=.",
            "“": " Use plain quotes: 'text'.",
            "‘": " Use plain quotes: 'text'.",
        }.get(seen, "")
        complain(self._text, at, f"cannot read {seen!r}.{advice}")

    def _take(self) -> _Word:
        taken = self.next
        self.next = next(self._words, taken)
        return taken

    def _is(self, *texts: str) -> bool:
        return self.next.kind in ("sign", *_KEYWORDS) and self.next.text in texts

    def expect(self, what: str) -> NoReturn:
        """Complains about the next word."""
        found = self.next
        seen = "the condition ends" if found.kind == "end" else f"found {found.text!r}"
        advice = ""
        if found.kind == "name" and (what == "a value" or "end" in what):
            close = get_close_matches(found.text.lower(), _KEYWORDS, n=1, cutoff=0.6)
            if close and what != "a value":
                advice = f" Did you mean {close[0]!r}?"
            elif what == "a value":
                advice = " Text stands in quotes: 'text'."
        complain(self._text, found.at, f"expected {what}, but {seen}.{advice}")

    def condition(self, depth: int) -> Condition:
        return self._junction("or", depth)

    def _junction(self, word: str, depth: int) -> Condition:
        parts = []
        while True:
            parts.append(self._junction("and", depth) if word == "or" else self._negation(depth))
            if not self._is(word):
                break
            self._take()
        return parts[0] if len(parts) == 1 else Junction(word=word, parts=tuple(parts))

    def _negation(self, depth: int) -> Condition:
        if depth > _DEEPEST:
            complain(self._text, self.next.at, f"more than {_DEEPEST} levels of nesting.")
        if self._is("not"):
            self._take()
            return Not(of=self._negation(depth + 1))
        if self._is("("):
            self._take()
            inner = self.condition(depth + 1)
            if not self._is(")"):
                self.expect("and, or, or )")
            self._take()
            return inner
        return self._comparison()

    def _comparison(self) -> Condition:
        if self.next.kind != "name":
            self.expect("a column, params.NAME or tags.NAME")
        self._comparisons += 1
        if self._comparisons > _MOST:
            complain(self._text, self.next.at, f"more than {_MOST} comparisons.")
        name = self._take()
        field, at = re.sub(r'\."((?:[^"]|"")*)"', r".\1", name.text).replace('""', '"'), name.at
        if self._is("is"):
            self._take()
            negated = self._took("not")
            if not self._took("null"):
                self.expect("null")
            found: Condition = Comparison(field=field, operator="null", values=(), at=at)
            return Not(of=found) if negated else found
        negated = self._took("not")
        if self._took("in"):
            found = Comparison(field=field, operator="in", values=self._list(), at=at)
            return Not(of=found) if negated else found
        if negated or not self._is(*_OPERATORS):
            self.expect("in" if negated else "one of = != < <= > >= ~, in, is")
        operator = self._take().text
        return Comparison(field=field, operator=operator, values=(self._value(),), at=at)

    def _took(self, word: str) -> bool:
        return self._is(word) and bool(self._take())

    def _list(self) -> tuple[Value, ...]:
        if not self._took("("):
            self.expect("( and the values")
        values = [self._value()]
        while self._took(","):
            values.append(self._value())
        if not self._took(")"):
            self.expect(", or )")
        return tuple(values)

    def _value(self) -> Value:
        if self.next.kind not in ("text", "number", "true", "false"):
            self.expect("a value")
        word = self._take()
        if word.kind == "text":
            quote = word.text[0]
            text = word.text[1:-1].replace(quote * 2, quote)
            if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
                complain(self._text, word.at, "a character that no database can hold.")
            return text
        if word.kind == "number":
            whole = re.fullmatch(r"[+-]?\d{1,18}", word.text)
            return int(word.text) if whole else float(word.text)
        return word.kind == "true"
