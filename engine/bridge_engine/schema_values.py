"""What single keywords of a JSON Schema say: bounds, patterns, enumerations, and how two merge. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, Final

_LONGEST_PATTERN: Final = 500
_MOST_REPEATS: Final = 1000
_MOST_COUNTED: Final = 100_000  # items, characters or properties that a bound may ask for
_LARGEST: Final = 10**15  # of a number's bound: beyond, llama.cpp's own arithmetic is not exact
_LARGEST_STEP: Final = 1000  # of `multipleOf`, as a whole number of its last decimal place
_FORMATS: Final = ("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")

# What llama.cpp's regular expressions cannot say, or say otherwise than JSON Schema.
_NOT_REGULAR: Final = re.compile(r"\(\?(?!:)|\\[1-9kbBAzZGXRKQECcuxNoUL]|[*+?}]\+")
_PROPERTY: Final = re.compile(r"\\[pP](?:\{\w+\}|\w)")
_REPEAT: Final = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_SET_OPERATION: Final = re.compile(r"(?<!\\)\[|--|&&|~~|\|\|")
_CLASS: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


class Misfit(Exception):
    """A keyword that cannot be converted.

    Attributes:
        keyword: Its name.
        problem: What is wrong, after "the keyword …".
    """

    def __init__(self, keyword: str, problem: str = "cannot be made a grammar") -> None:
        super().__init__(keyword, problem)
        self.keyword = keyword
        self.problem = problem


def string_rules(flat: dict[str, Any]) -> dict[str, Any]:
    """The keywords for strings.

    Raises:
        Misfit: A pattern is not regular, or the bounds leave nothing.
    """
    out = bounded(flat, counts="Length")
    pattern = flat.get("pattern")
    if pattern is not None:
        if out:
            raise Misfit("pattern", "cannot be converted beside minLength or maxLength")
        out["pattern"] = _checked(pattern)
    elif flat.get("format") in _FORMATS and not out:
        out["format"] = flat["format"]
    return out


def _checked(pattern: Any) -> str:
    if not isinstance(pattern, str) or len(pattern) > _LONGEST_PATTERN:
        raise Misfit("pattern", f"must be a text of at most {_LONGEST_PATTERN} characters")
    if _NOT_REGULAR.search(_PROPERTY.sub("x", pattern)):
        raise Misfit("pattern", "uses what a grammar cannot say (look-around, back-reference, boundary)")
    if any(_SET_OPERATION.search(found.group()[1:]) for found in _CLASS.finditer(pattern)):
        raise Misfit("pattern", "has a set inside a set")
    bare = _CLASS.sub("x", pattern.removeprefix("^").removesuffix("$"))
    if "[" in bare:
        raise Misfit("pattern", "has a set that is not closed")
    if "^" in bare or "$" in bare:
        raise Misfit("pattern", "has an anchor in its middle")
    if "{" in _REPEAT.sub("", bare):
        raise Misfit("pattern", "has a brace that is no repetition")
    total = 1
    for low, high in _REPEAT.findall(bare):
        total *= max(1, *(int(number[:9]) for number in (low, high) if number))
        if total > _MOST_REPEATS:
            raise Misfit("pattern", f"repeats more than {_MOST_REPEATS} times")
    try:
        re.compile(_PROPERTY.sub("x", pattern))
    except (re.error, RecursionError, OverflowError) as fault:
        raise Misfit("pattern", "is not a regular expression") from fault
    return pattern


def bounded(flat: dict[str, Any], *, counts: str = "", whole: bool = False) -> dict[str, Any]:
    """The bounds that the schema sets: of a number, or of `minItems` and the like.

    Args:
        flat: The schema.
        counts: What is counted (`Items`); empty for the value itself.
        whole: Only whole numbers count.

    Raises:
        Misfit: A bound is no number or too large, or they leave nothing.
    """
    if counts:
        low, high = (_count(flat, side + counts) for side in ("min", "max"))
        if low is not None and high is not None and low > high:
            raise Misfit(f"min{counts}", f"is above max{counts}")
        found = {f"min{counts}": low, f"max{counts}": high}
        return {name: number for name, number in found.items() if number is not None}
    return _range(flat, whole=whole)


def _count(flat: dict[str, Any], keyword: str) -> int | None:
    number = _number(flat, keyword)
    if number is None:
        return None
    if number != int(number) or not 0 <= number <= _MOST_COUNTED:
        raise Misfit(keyword, f"must be a whole number from 0 to {_MOST_COUNTED}")
    return int(number)


def _number(flat: dict[str, Any], keyword: str) -> float | None:
    value = flat.get(keyword)
    if value is None or value is False:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Misfit(keyword, "must be a number")
    if abs(value) > _LARGEST:
        raise Misfit(keyword, "is too large")
    return value


def _range(flat: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    low, over = _side(flat, "minimum", "exclusiveMinimum", max)
    high, under = _side(flat, "maximum", "exclusiveMaximum", min)
    step = _step(flat, whole=whole)
    if whole:
        low = None if low is None else math.floor(low) + 1 if over else math.ceil(low)
        high = None if high is None else math.ceil(high) - 1 if under else math.floor(high)
        over = under = False
    if low is not None and high is not None and (low > high or (low == high and (over or under))):
        raise Misfit("exclusiveMinimum" if over else "minimum", "is above the maximum")
    if step is not None and high is not None and (high < 0 or (high == 0 and under)):
        raise Misfit("multipleOf", "cannot be converted where every value is below 0")
    if step is not None and low is not None and high is not None:
        _check_step(Fraction(str(step)), Fraction(str(low)), Fraction(str(high)), open_=over or under)
    names = ("exclusiveMinimum" if over else "minimum", "exclusiveMaximum" if under else "maximum")
    found = {names[0]: low, names[1]: high, "multipleOf": step}
    return {name: number for name, number in found.items() if number is not None}


def _step(flat: dict[str, Any], *, whole: bool) -> float | None:
    """`multipleOf`; None where it says nothing.

    The runner's automaton has a state for each remainder, and of too many it says nothing and generates
    without the schema. It reads a step by decimal places, as below, which some fractions never end.
    """
    step = _number(flat, "multipleOf")
    if step is None:
        return None
    if step < 1e-6:
        raise Misfit("multipleOf", "must be a number above 0.000001")
    if whole:
        step = Fraction(str(step)).numerator  # whole numbers that are multiples of it
        if step == 1:
            return None
    if (remainders := remainders_of(step)) > _LARGEST_STEP:
        raise Misfit("multipleOf", "has too many digits" if remainders > step else "is too large")
    return step


def remainders_of(step: float) -> int:
    """How many remainders there are beside multiples of `step`."""
    number = float(step)
    while not number.is_integer():
        number *= 10
    return int(number)


def _side(flat: dict[str, Any], keyword: str, exclusive: str, tighter: Any) -> tuple[float | None, bool]:
    """The bound on one side, and whether it is itself excluded; `true` is the form of older drafts."""
    bound = _number(flat, keyword)
    if flat.get(exclusive) is True:
        return bound, bound is not None
    beyond = _number(flat, exclusive)
    if beyond is None or bound is None:
        return (bound, False) if beyond is None else (beyond, True)
    return (beyond, True) if tighter(beyond, bound) == beyond else (bound, False)


def _check_step(step: Fraction, low: Fraction, high: Fraction, *, open_: bool) -> None:
    first = math.ceil(low / step) * step
    if open_ and first == low:
        first += step
    if first > high or (open_ and first == high):
        raise Misfit("multipleOf", "has no multiple between the bounds")


def chosen(flat: dict[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
    """`enum` or `const`, as far as the types allow.

    Raises:
        Misfit: Nothing is left, or another keyword stands beside it.
    """
    keyword = "enum" if "enum" in flat else "const"
    values = flat["enum"] if keyword == "enum" else [flat["const"]]
    if not isinstance(values, list):
        raise Misfit(keyword, "must be a list")
    if "enum" in flat and "const" in flat:
        values = [value for value in values if _same(value, flat["const"])]
    beside = [name for name in flat if name not in {"type", "enum", "const", "format"}]
    if beside:
        raise Misfit(beside[0], f"cannot be converted beside {keyword}")
    if flat.get("type") is not None:
        values = [value for value in values if _is_any(value, kinds)]
    if not values:
        raise Misfit(keyword, "allows nothing")
    return {"enum": values} if keyword == "enum" else {"const": values[0]}


def _is_any(value: Any, kinds: Iterable[str]) -> bool:
    checks = {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "null": value is None,
        "number": isinstance(value, int | float) and not isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
    }
    return any(checks[kind] for kind in kinds)


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON, to which `true` is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A schema that both schemas together are.

    Raises:
        Misfit: They say what cannot be said in one; names the keyword.
    """
    _check_closed(one, other)
    _check_closed(other, one)
    out = dict(one)
    for keyword, value in other.items():
        out[keyword] = value if keyword not in out else _both(keyword, out[keyword], value)
    return out


def _check_closed(closed: dict[str, Any], other: dict[str, Any]) -> None:
    """`additionalProperties: false` also forbids what only the other schema names."""
    rest = closed.get("additionalProperties", True)
    if rest is True or not isinstance(other.get("properties"), dict):
        return
    own = closed.get("properties")
    if any(name not in own for name in other["properties"]) if isinstance(own, dict) else other["properties"]:
        raise Misfit("additionalProperties", "in one part of allOf forbids properties of another")


def _both(keyword: str, one: Any, other: Any) -> Any:
    if _same(one, other):
        return one
    if keyword == "properties" and isinstance(one, dict) and isinstance(other, dict):
        shared = {name: {"allOf": [one[name], other[name]]} for name in one if name in other}
        return {**one, **other, **shared}
    if keyword == "required" and isinstance(one, list) and isinstance(other, list):
        return [*one, *(name for name in other if name not in one)]
    if keyword == "type":
        return _common_types(one, other)
    if keyword == "enum" and isinstance(one, list) and isinstance(other, list):
        known = {json.dumps(value, sort_keys=True) for value in other}
        return [value for value in one if json.dumps(value, sort_keys=True) in known]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    if numbers and keyword.startswith(("min", "exclusiveMin")):
        return max(one, other)
    if numbers and keyword.startswith(("max", "exclusiveMax")):
        return min(one, other)
    if keyword == "additionalProperties" and True in (one, other):
        return other if one is True else one
    raise Misfit(keyword, "cannot be converted where allOf sets it twice")


def _common_types(one: Any, other: Any) -> list[Any]:
    first, second = (list(value) if isinstance(value, list) else [value] for value in (one, other))
    common = [kind for kind in first if kind in second or (kind == "integer" and "number" in second)]
    common += [kind for kind in second if kind == "integer" and "number" in first and kind not in common]
    return common


def endless(root: dict[str, Any], targets: dict[str, dict[str, Any]]) -> str:
    """The name of a target that no finite value satisfies, or that begins with itself; else nothing.

    Args:
        root: A converted schema.
        targets: The converted targets of its references, by name.
    """
    for name in targets:
        ahead, seen = [name], set()
        while ahead:
            for other in _first(targets[ahead.pop()]):
                if other == name:
                    return name
                if other not in seen:
                    seen.add(other)
                    ahead.append(other)
    ending: set[str] = set()
    while True:
        found = {name for name in targets if name not in ending and _ends(targets[name], ending)}
        if not found:
            break
        ending |= found
    unending = [name for name in targets if name not in ending]
    return "" if _ends(root, ending) or not unending else unending[0]


def _first(schema: dict[str, Any]) -> list[str]:
    """The references that a value of the schema may itself be."""
    if "$ref" in schema:
        return [_target_of(schema)]
    return [name for branch in schema.get("anyOf", ()) for name in _first(branch)]


def _ends(schema: Any, ending: set[str]) -> bool:
    """Whether some finite value satisfies the schema, given the references for which there is one."""
    if not isinstance(schema, dict):
        return True
    if "$ref" in schema:
        return _target_of(schema) in ending
    if "anyOf" in schema:
        return any(_ends(branch, ending) for branch in schema["anyOf"])
    if isinstance(schema.get("type"), list):
        return any(_ends({**schema, "type": kind}, ending) for kind in schema["type"])
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        return all(_ends(properties.get(name), ending) for name in schema.get("required", ()))
    if schema.get("type") == "array":
        first, least = schema.get("prefixItems", []), schema.get("minItems", 0)
        rest = least <= len(first) or _ends(schema.get("items"), ending)
        return rest and all(_ends(item, ending) for item in first[:least])
    return True


def _target_of(schema: dict[str, Any]) -> str:
    return str(schema["$ref"]).rpartition("/")[2]
