"""An experiment's options from what a person typed: text to the types of its config dataclass."""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mlux.errors import ParameterError, UnknownNameError

LARGEST = 10**9
"""The largest whole number that an option takes: more of anything is a slip of the finger."""

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def build(config: type, values: Mapping[str, Any], *, experiment: str) -> Any:
    """A config from values, given as text or as Python values of the right type.

    Args:
        config: The config dataclass.
        values: Option → value; the others keep their defaults.
        experiment: For the error messages.

    Raises:
        UnknownNameError: If there is no such option.
        ParameterError: If a value does not fit its option's type, or the config refuses it.
    """
    types = get_type_hints(config)
    known = {field.name: field for field in fields(config)}
    arguments = {}
    for name, value in values.items():
        if name not in known:
            hint = f"See: mlux experiments {experiment}"
            raise UnknownNameError(f"parameter of {experiment}", name, known, hint)
        if isinstance(value, list | tuple) and tuple(value) == known[name].default == ():
            continue  # an empty list cannot be typed, but a stored run may have it
        try:
            arguments[name] = _convert(value, types[name])
        except ValueError as error:
            shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}…"
            fault = error if isinstance(error, _RangeError) else f"not {describe(types[name])}"
            raise ParameterError(f"{experiment}: {name}={shown} is {fault}.") from error
    missing = [n for n, f in known.items() if n not in arguments and _required(f)]
    if missing:
        raise ParameterError(f"{experiment} needs a value for {missing[0]}: -p {missing[0]}=…")
    try:
        return config(**arguments)
    except ValueError as error:
        raise ParameterError(f"{experiment}: {error}") from error


def as_text(value: Any) -> str:
    """A value as a person types it: what `build` reads it from.

    Example:
        >>> as_text((1, 2.5)), as_text(None), as_text(("sorry, no", "I cannot"))
        ('1,2.5', 'none', '["sorry, no", "I cannot"]')
    """
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "none"}[value]
    if not isinstance(value, list | tuple):
        return str(value)
    items = [as_text(item) for item in value]
    text = ",".join(items)
    return text if text != "none" and _items(text) == items else json.dumps(items)


def _items(text: str) -> list[str]:
    """The items of a list: those between commas, or where items hold commas, texts in JSON."""
    if text.startswith("["):
        try:
            found = json.loads(text)
        except ValueError:
            found = []
        if isinstance(found, list) and found and all(isinstance(item, str) for item in found):
            return found
    return text.split(",")


class _RangeError(ValueError):
    """A number of the right type that nothing can be done with."""


def _required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def describe(kind: Any) -> str:
    """A type in words, as in `a whole number` or `one of: last, all`."""
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        NoneType: "none",
    }
    if kind in words:
        return words[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of: " + ", ".join(map(str, arguments))
    if origin is tuple:
        return f"a comma-separated list, each {describe(arguments[0])}"
    if origin in (Union, UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    return str(kind)


def _convert(value: Any, kind: Any) -> Any:
    """The value as the type; ValueError if it does not fit."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _convert_union(value, arguments)
    if origin is Literal:
        matches = [choice for choice in arguments if value == choice or value == str(choice)]
        if not matches:
            raise ValueError
        return matches[0]
    if origin is tuple:
        items = _items(value) if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not items:
            raise ValueError
        strip = [item.strip() if isinstance(item, str) else item for item in items]
        return tuple(_convert(item, arguments[0]) for item in strip)
    return _convert_scalar(value, kind)


def _convert_union(value: Any, kinds: tuple[Any, ...]) -> Any:
    if NoneType in kinds and (value is None or value == "none"):
        return None
    for kind in kinds:
        if kind is NoneType:
            continue
        try:
            return _convert(value, kind)
        except _RangeError:
            raise
        except ValueError:
            continue
    raise ValueError


def _convert_scalar(value: Any, kind: Any) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        lowered = str(value).lower()
        if lowered not in (*_TRUE, *_FALSE):
            raise ValueError
        return lowered in _TRUE
    if kind in (int, float):
        return _convert_number(value, kind)
    if type(value) is not kind:
        raise ValueError
    return value


def _convert_number(value: Any, kind: Any) -> Any:
    """The number; `_RangeError` if it is infinite, not a number, or huge as no count is."""
    if not isinstance(value, str) and type(value) not in (int, kind):
        raise ValueError
    try:
        number = kind(value)
    except OverflowError:  # a whole number that no float can hold
        raise _RangeError("too large") from None
    if not math.isfinite(number):
        raise _RangeError("not a finite number")
    if kind is int and abs(number) > LARGEST:
        raise _RangeError(f"too large; expected at most {LARGEST:,}")
    return number
