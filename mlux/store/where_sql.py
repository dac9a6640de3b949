"""A condition of `where` as SQL: names come from a table here, values are bound as parameters."""

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from mlux.errors import UnknownNameError
from mlux.store.where import Comparison, Condition, Junction, Not, Value, complain, parse

TEXTS = {
    "run": "r.uid",
    "experiment": "e.name",
    "model": "m.label",
    "prompt_set": "s.name",
    "note": "r.note",
    "dtype": "m.dtype",
    "device": "r.device",
    "created_at": "r.created_at",
    "started_at": "r.started_at",
    "finished_at": "r.finished_at",
    "git_commit": "r.git_commit",
    "error": "r.error",
}
NUMBERS = {
    "trials": "(SELECT count(*) FROM trials AS t WHERE t.run_id = r.id)",
    "done": "(SELECT count(*) FROM trials AS t WHERE t.run_id = r.id AND t.status = 'done')",
    "failed": "(SELECT count(*) FROM trials AS t WHERE t.run_id = r.id AND t.status = 'failed')",
    "seed": "r.seed",
    "batch_size": "r.batch_size",
    "quant_bits": "m.quant_bits",
    "seconds": "r.seconds",
}
ALIASES = {
    "prompts": "prompt_set",
    "created": "created_at",
    "started": "started_at",
    "finished": "finished_at",
}
"""What `mlux runs list` calls a column that `run_overview` calls otherwise."""

_GROUPS = {"params": "run_params", "tags": "run_tags"}


def compile_where(connection: sa.Connection, text: str, status: str) -> tuple[str, dict[str, Any]]:
    """A condition as SQL on `runs AS r`, `experiments AS e`, `models AS m`, `prompt_sets AS s`.

    Args:
        connection: To look up which parameters and tags there are.
        text: The condition.
        status: The SQL of a run's status.

    Returns:
        SQL that is true or false, never NULL, and the values that it needs.

    Raises:
        ParameterError: If it cannot be read, or names what no run has.
    """
    compiler = _Compiler(connection, text, {**TEXTS, "status": status})
    return compiler.sql(parse(text)), compiler.values


class _Compiler:
    def __init__(self, connection: sa.Connection, text: str, texts: Mapping[str, str]) -> None:
        self._connection = connection
        self._text = text
        self._texts = texts
        self._known: dict[str, set[str]] = {}
        self.values: dict[str, Any] = {}

    def sql(self, condition: Condition) -> str:
        if isinstance(condition, Junction):
            parts = [self.sql(part) for part in condition.parts]
            return f"({f' {condition.word.upper()} '.join(parts)})"
        if isinstance(condition, Not):
            return f"(NOT {self.sql(condition.of)})"
        if condition.operator == "!=":
            # What a run lacks is not equal to anything.
            return f"(NOT {self._comparison(condition, '=')})"
        return self._comparison(condition, condition.operator)

    def _comparison(self, it: Comparison, operator: str) -> str:
        group, _, name = it.field.partition(".")
        if group.lower() in _GROUPS and name:
            return self._pair(it, group.lower(), name, operator)
        column = ALIASES.get(it.field.lower(), it.field.lower())
        if column in NUMBERS:
            return self._number(it, NUMBERS[column], operator)
        if column not in self._texts:
            self._unknown(it, "column", it.field, [*self._texts, *NUMBERS, *ALIASES])
        return self._of_text(self._texts[column], operator, self._texts_of(it))

    def _texts_of(self, it: Comparison) -> list[str]:
        for value in it.values:
            if not isinstance(value, str):
                complain(self._text, it.at, f"{it.field} is text; put its value in quotes.")
        return [str(value) for value in it.values]

    def _of_text(self, column: str, operator: str, values: list[str]) -> str:
        if operator == "null":
            return f"({column} IS NULL)"
        if operator == "~":
            marks = self._bound([_pattern(value) for value in values])
            test = f"lower({column}) LIKE lower({marks}) ESCAPE '!'"
        elif operator == "in":
            test = f"{column} IN ({self._bound(values)})"
        else:
            test = f"{column} {operator} {self._bound(values)}"
        # NULL is no answer: what is not known to hold does not.
        return f"({column} IS NOT NULL AND {test})"

    def _number(self, it: Comparison, column: str, operator: str) -> str:
        if operator == "null":
            return f"({column} IS NULL)"
        if operator == "~":
            complain(self._text, it.at, f"{it.field} is a number; ~ looks into text.")
        for value in it.values:
            if isinstance(value, bool) or not isinstance(value, int | float):
                complain(self._text, it.at, f"{it.field} is a number; {value!r} is none.")
        return self._of_numbers(column, operator, it.values)

    def _of_numbers(self, column: str, operator: str, values: tuple[Value, ...]) -> str:
        marks = self._bound(list(values))
        test = f"{column} IN ({marks})" if operator == "in" else f"{column} {operator} {marks}"
        return f"({column} IS NOT NULL AND {test})"

    def _pair(self, it: Comparison, group: str, name: str, operator: str) -> str:
        """A parameter or a tag: some row of the run's has this name and fulfils the test."""
        self._check_name(it, group, name)
        if group == "params":
            test = self._param(it, operator)
        elif operator == "null":
            test = "1 = 1"
        else:
            test = self._of_text("x.value", operator, self._texts_of(it))
        found = (
            f"EXISTS (SELECT 1 FROM {_GROUPS[group]} AS x "
            f"WHERE x.run_id = r.id AND x.name = {self._bound([name])} AND {test})"
        )
        return f"(NOT {found})" if operator == "null" else found

    def _param(self, it: Comparison, operator: str) -> str:
        """A parameter is JSON in `value`, and in `number` if it is a number."""
        if operator == "null":
            return "x.value <> 'null'"
        texts = [value for value in it.values if isinstance(value, str)]
        numbers = tuple(v for v in it.values if not isinstance(v, str | bool))
        if operator == "~":
            return self._of_text("x.value", operator, [json.dumps(self._texts_of(it)[0])[1:-1]])
        if operator[0] in "<>":
            if numbers:
                return self._of_numbers("x.number", operator, numbers)
            if not texts:
                complain(self._text, it.at, "true and false have no order.")
            # Text as text: of what is written as JSON, what begins with a quote.
            test = self._of_text("x.value", operator, [json.dumps(texts[0])])
            return f"(x.value LIKE '\"%' AND {test})"
        # A text may be the parameter's JSON itself, as in params.layers = '[0, 2]'.
        written = [json.dumps(text) for text in texts] + texts
        written += [json.dumps(value) for value in it.values if isinstance(value, bool)]
        tests = [self._of_text("x.value", "in", written)] if written else []
        tests += [self._of_numbers("x.number", "in", numbers)] if numbers else []
        return f"({' OR '.join(tests)})"

    def _check_name(self, it: Comparison, group: str, name: str) -> None:
        if group not in self._known:
            query = sa.text(f"SELECT DISTINCT name FROM {_GROUPS[group]}")
            self._known[group] = set(self._connection.execute(query).scalars())
        if name not in self._known[group]:
            kind = {"params": "parameter of a run", "tags": "tag of a run"}[group]
            self._unknown(it, kind, name, self._known[group])

    def _unknown(self, it: Comparison, kind: str, name: str, choices: Any) -> None:
        complain(self._text, it.at, str(UnknownNameError(kind, name, choices)))

    def _bound(self, values: list[Any]) -> str:
        """The marks of values that are handed over beside the SQL."""
        marks = []
        for value in values:
            key = f"where_{len(self.values)}"
            self.values[key] = value
            marks.append(f":{key}")
        return ", ".join(marks)


def _pattern(text: str) -> str:
    """The LIKE pattern of whatever contains this text."""
    escaped = text.replace("!", "!!").replace("%", "!%").replace("_", "!_")
    return f"%{escaped}%"
