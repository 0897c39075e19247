"""Values inside templates, and Go's ideas of printing, truth and order for them.

Templates see plain Python values. Two kinds stand for Go's structs and named types: `TemplateRecord`, whose
unknown fields are faults, and `JsonText`, a mapping or list that prints as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


class TemplateRecord(dict[str, Any]):
    """A struct: fields by their Go names; reading one that it lacks is a fault."""


class JsonRecord(TemplateRecord):
    """A struct that prints as JSON of `wire`, its form outside of templates."""

    wire: Any = None


class JsonMap(dict[str, Any]):
    """A map that prints as JSON."""


class JsonList(list[Any]):
    """A list that prints as JSON."""


class TypeList(list[Any]):
    """The types of a schema's property: one prints as itself, several with commas."""


def as_map(value: Any) -> Mapping[str, Any]:
    """A client's JSON where an object belongs: anything else counts as an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_list(value: Any) -> Sequence[Any]:
    """A client's JSON where a list belongs: anything else counts as an empty one."""
    return value if isinstance(value, list | tuple) else ()


def to_wire(value: Any) -> Any:
    """The value as it is outside of templates."""
    if isinstance(value, JsonRecord):
        return value.wire
    if isinstance(value, Mapping):
        return {key: to_wire(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_wire(item) for item in value]
    return value


def go_json(value: Any) -> str:
    """JSON as Go's encoder writes it: compact, with `<`, `>` and `&` escaped."""
    text = msgspec.json.encode(to_wire(value)).decode()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def text_of(value: Any) -> str:
    """What printing the value writes."""
    if isinstance(value, str):
        return value
    if value is None:
        return "<no value>"
    return _inner(value)


def _inner(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "<nil>"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, JsonRecord | JsonMap | JsonList):
        return go_json(value)
    if isinstance(value, TypeList):
        return str(value[0]) if len(value) == 1 else "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, TemplateRecord):
        return "{" + " ".join(_inner(item) for item in value.values()) + "}"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{_inner(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(_inner(item) for item in value) + "]"
    return str(value)


def _float(value: float) -> str:
    if value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    return repr(value)


def truth(value: Any) -> bool:
    """Whether `if` takes the value for true: anything but false, 0, nil and the empty."""
    if isinstance(value, TemplateRecord):
        return True
    return bool(value)


def kind(value: Any) -> str:
    """Which values `eq` and `lt` may compare with one another."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    if isinstance(value, Sequence):
        return "list"
    return "nil" if value is None else "map"
