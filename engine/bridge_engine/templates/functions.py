"""The functions that templates may call: Go's own and those Ollama adds."""

from __future__ import annotations

import dataclasses
import html
import operator
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from bridge_core.dialects.values import go_json, kind, text_of, truth
from bridge_engine.templates.lexer import character

_WIDEST = 999  # of a padded number or text: a format string must not be able to fill memory
_VERB = re.compile(r"%([-+# 0]*)(\d*)(?:\.(\d+))?([a-zA-Z%])")


class FunctionFault(Exception):
    """A function refuses its arguments; the interpreter adds the line."""


@dataclasses.dataclass(frozen=True, slots=True)
class Dates:
    """What `currentDate` and `yesterdayDate` say, as YYYY-MM-DD."""

    today: str = ""
    yesterday: str = ""


def call(name: str, arguments: Sequence[Any], dates: Dates) -> Any:
    """Calls a function of FUNCTION_NAMES.

    Raises:
        CallFault: Wrong number or kinds of arguments.
    """
    if name == "currentDate":
        return dates.today
    if name == "yesterdayDate":
        return dates.yesterday
    least, most, function = _FUNCTIONS[name]
    if not least <= len(arguments) <= most:
        raise FunctionFault(f"wrong number of arguments for {name}: {len(arguments)}")
    return function(*arguments)


def _print(*values: Any) -> str:
    """Joined, with a space between two values neither of which is a string."""
    out = ""
    for place, value in enumerate(values):
        if place and not isinstance(value, str) and not isinstance(values[place - 1], str):
            out += " "
        out += text_of(value)
    return out


def _println(*values: Any) -> str:
    return " ".join(text_of(value) for value in values) + "\n"


def _printf(layout: Any, *values: Any) -> str:
    if not isinstance(layout, str):
        raise FunctionFault("printf: the format must be a string")
    waiting = list(values)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match.groups()
        if verb == "%":
            return "%"
        if not waiting:
            return f"%!{verb}(MISSING)"
        if len(width) > len(str(_WIDEST)) or len(precision or "") > len(str(_WIDEST)):
            raise FunctionFault(f"printf: %{width[:9]}{verb} is too wide")
        text = _formatted(verb, waiting.pop(0), flags, precision)
        if "-" in flags:
            return text.ljust(int(width or 0))
        return text.rjust(int(width or 0), "0" if "0" in flags and verb != "s" else " ")

    return _VERB.sub(one, layout)


def _formatted(verb: str, value: Any, flags: str, precision: str | None) -> str:
    sign = "+" if "+" in flags else ""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if verb in {"v", "s"}:
        text = text_of(value)
        return text if precision is None or verb == "v" else text[: int(precision)]
    if verb == "q":
        return msgspec.json.encode(text_of(value)).decode()
    if verb == "t" and isinstance(value, bool):
        return text_of(value)
    if verb in {"d", "x", "X", "o", "b", "c"} and isinstance(value, int) and number:
        return character(value) if verb == "c" else format(value, sign + verb)
    if verb in {"f", "e", "g", "F", "E", "G"} and number:
        return format(float(value), f"{sign}.{precision or 6}{verb}" if verb != "g" else f"{sign}g")
    if verb in {"x", "X"} and isinstance(value, str):
        return value.encode().hex() if verb == "x" else value.encode().hex().upper()
    return f"%!{verb}({text_of(value)})"


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Mapping | Sequence):
        return len(value)
    raise FunctionFault("len: has no length")


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None:
            raise FunctionFault("index of untyped nil")
        if isinstance(value, Mapping):
            if not isinstance(key, str):
                raise FunctionFault("index: a map's keys are strings")
            value = value.get(key)
        elif isinstance(value, str | Sequence):
            items: Sequence[Any] = value.encode() if isinstance(value, str) else value
            value = items[_place(key, len(items) - 1)]
        else:
            raise FunctionFault("index: cannot be indexed")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, str | Sequence):
        raise FunctionFault("slice: cannot be sliced")
    items: Any = value.encode() if isinstance(value, str) else value
    places = [_place(bound, len(items)) for bound in bounds]
    if sorted(places) != places:
        raise FunctionFault("slice: bounds out of order")
    low, high = (*places, 0)[0] if places else 0, places[1] if len(places) > 1 else len(items)
    part = items[low:high]
    return part.decode(errors="replace") if isinstance(value, str) else part


def _place(key: Any, last: int) -> int:
    if isinstance(key, bool) or not isinstance(key, int):
        raise FunctionFault("cannot index with a value that is not an integer")
    if not 0 <= key <= last:
        raise FunctionFault(f"index out of range: {key}")
    return key


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise FunctionFault("eq: missing argument for comparison")
    for other in others:
        if kind(first) != kind(other) and None not in (first, other):
            raise FunctionFault("incompatible types for comparison")
        if None not in (first, other) and kind(first) not in {"bool", "number", "string"}:
            raise FunctionFault("incomparable types")
    return any(first == other for other in others)


def _compare(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(first: Any, second: Any) -> bool:
        if kind(first) != kind(second) or kind(first) not in {"number", "string"}:
            raise FunctionFault("incompatible types for comparison")
        return test(first, second)

    return compare


_TYPESCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
}


def _typescript(value: Any) -> str:
    """A JSON Schema property's type as TypeScript writes it."""
    if not isinstance(value, Mapping):
        return "any"
    alternatives = value.get("AnyOf") or []
    if alternatives:
        return " | ".join(_typescript(one) for one in alternatives)
    types = value.get("Type") or []
    names = [types] if isinstance(types, str) else list(types)
    return " | ".join(_typescript_name(str(name), value) for name in names) or "any"


def _typescript_name(name: str, value: Mapping[str, Any]) -> str:
    if name == "array":
        items = value.get("Items")
        inner = items.get("type") if isinstance(items, Mapping) else None
        return f"{_TYPESCRIPT.get(inner, 'any') if isinstance(inner, str) else 'any'}[]"
    return "Record<string, any>" if name == "object" else _TYPESCRIPT.get(name, "any")


EXPANDS: Mapping[str, int] = {
    "print": 1,
    "println": 1,
    "json": 6,
    "js": 6,
    "html": 6,
    "printf": 12,
    "urlquery": 12,
}
"""How many characters the functions that write may make of one that they are given."""

_MANY = 1 << 30
_FUNCTIONS: Mapping[str, tuple[int, int, Callable[..., Any]]] = {
    "json": (1, 1, go_json),
    "toTypeScriptType": (1, 1, _typescript),
    "len": (1, 1, _length),
    "index": (1, _MANY, _index),
    "slice": (1, 4, _slice),
    "print": (0, _MANY, _print),
    "printf": (1, _MANY, _printf),
    "println": (0, _MANY, _println),
    "not": (1, 1, lambda value: not truth(value)),
    "eq": (1, _MANY, _equal),
    "ne": (2, 2, lambda first, second: not _equal(first, second)),
    "lt": (2, 2, _compare(operator.lt)),
    "le": (2, 2, _compare(operator.le)),
    "gt": (2, 2, _compare(operator.gt)),
    "ge": (2, 2, _compare(operator.ge)),
    "html": (1, _MANY, lambda *values: html.escape(_print(*values))),
    "js": (1, _MANY, lambda *values: msgspec.json.encode(_print(*values)).decode()[1:-1]),
    "urlquery": (1, _MANY, lambda *values: urllib.parse.quote_plus(_print(*values))),
}

FUNCTION_NAMES = frozenset({*_FUNCTIONS, "and", "or", "currentDate", "yesterdayDate"})
"""Every name that a template may call; `and` and `or` stop early, so the interpreter has them."""
