"""Request bodies, read by the rules of Go's `encoding/json`, so that what we see Ollama sees too.

Rules:
1. A key matches a field without regard to case; of keys that match one field the last wins.
2. `null` leaves a field at its zero value: here it is absent.
3. Whatever follows the first JSON value is ignored; unknown keys are ignored.
4. Bytes that are not UTF-8, and lone surrogates, become U+FFFD, one for each byte.
5. A value of another type, or a number that the type cannot hold, is an error that names both.
6. Keys inside a map (`options`, a JSON schema) are data: their case is kept; numbers too large for 64
   bits become floats, as all do in Go.
7. Values nest at most MOST_DEPTH deep. Go allows 10,000; here every walk over a body may recurse.
"""

from __future__ import annotations

import binascii
import codecs
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from bridge_core.dialects.errors import ApiError

MOST_DEPTH: Final = 128
"""Objects and lists within each other that a body may have."""

_REPLACEMENT: Final = "�"
_TOO_DEEP: Final = "exceeded max depth"
_INT64: Final = range(-(1 << 63), 1 << 63)


@dataclass(frozen=True)
class Scalar:
    """A Go type that takes JSON values of some Python types as they are."""

    go: str
    takes: tuple[type, ...]


@dataclass(frozen=True)
class ListOf:
    """A Go slice."""

    go: str
    item: Shape


@dataclass(frozen=True)
class Struct:
    """A Go struct: `name` as error messages call it, fields by their JSON names."""

    name: str
    fields: dict[str, Shape]
    go: str = ""
    folded: dict[str, str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folded", {key.casefold(): key for key in self.fields})


Shape = Scalar | ListOf | Struct

STRING: Final = Scalar("string", (str,))
BOOL: Final = Scalar("bool", (bool,))
INT: Final = Scalar("int", (int,))
FLOAT64: Final = Scalar("float64", (int, float))
ANY: Final = Scalar("interface {}", (object,))
MAP: Final = Scalar("map[string]interface {}", (dict,))
STRINGS: Final = ListOf("[]string", STRING)


def decode(body: bytes, shape: Struct) -> dict[str, Any]:
    """Reads a request body.

    Returns:
        The fields of `shape` that the body sets, under their proper names, and nothing else.

    Raises:
        ApiError: 400; the body is empty, is not JSON, or a value has the wrong type.
    """
    try:
        return _struct(_bounded(msgspec.json.decode(body)), shape, shape.name, top=True)
    except RecursionError:
        raise ApiError(400, _TOO_DEEP) from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, _FoldedKey):
        return _struct(_bounded(_decode_slowly(body)), shape, shape.name, top=True)


def decode_value(text: str, otherwise: str) -> Any:
    """Reads JSON that a body carries in a string.

    Raises:
        ApiError: 400 with the words of `otherwise`; it is no JSON, or nests too deeply.
    """
    try:
        return _bounded(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeError, RecursionError, ApiError) as fault:
        raise ApiError(400, otherwise) from fault


def _bounded(value: Any) -> Any:
    """The value, in place, with numbers that fit, level by level: no depth exhausts the stack."""
    outer = [value]
    level: list[Any] = [outer]
    for _ in range(MOST_DEPTH + 1):
        inner: list[Any] = []
        for container in level:
            if isinstance(container, _Pairs):  # its numbers were seen to when they were read
                inner += (item for _, item in container if isinstance(item, list))
                continue
            for key, item in container.items() if isinstance(container, dict) else enumerate(container):
                if isinstance(item, list | dict):
                    inner.append(item)
                elif isinstance(item, int) and item not in _INT64:
                    container[key] = _float(item)
        if not inner:
            return outer[0]
        level = inner
    raise ApiError(400, _TOO_DEEP)


def _integer(digits: str) -> int | float:
    number = _float(digits)
    return int(digits) if abs(number) < 1e18 else number


def _float(number: int | str) -> float:
    try:
        found = float(number)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ApiError(400, "json: cannot unmarshal number into Go value of type float64")
    return found


def string_of(value: Mapping[str, Any], key: str, where: str) -> str:
    """A string of an object whose shape depends on its kind; empty where it is missing or null.

    Raises:
        ApiError: 400; it is something else. `where` names the object.
    """
    found = value.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise _mismatch(found, f"{where}.{key}", "string")
    return found


def one_line_base64(text: str, otherwise: str) -> str:
    """Base64 as Go's standard decoder reads it: line breaks anywhere, padding, no URL alphabet.

    Returns:
        The same without line breaks.

    Raises:
        ApiError: 400 with the words of `otherwise`; it is not base64.
    """
    text = text.replace("\r", "").replace("\n", "")
    try:
        binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as fault:
        raise ApiError(400, otherwise) from fault
    return text


class _Pairs(list[tuple[str, Any]]):
    """An object as its key-value pairs in the order of the body."""


class _FoldedKey(Exception):
    """A key in another case: the order of keys counts, which the fast decoder does not keep."""


def _decode_slowly(body: bytes) -> Any:
    text = body.decode("utf-8", errors="bridge_go").lstrip(" \t\r\n")
    if not text:
        raise ApiError(400, "missing request body")
    decoder = json.JSONDecoder(
        object_pairs_hook=_Pairs, parse_constant=_no_constant, parse_int=_integer, parse_float=_float
    )
    try:
        value, _ = decoder.raw_decode(text)
    except json.JSONDecodeError as fault:
        raise ApiError(400, _syntax_message(text, fault)) from fault
    except RecursionError as fault:
        raise ApiError(400, _TOO_DEEP) from fault
    return value


def _syntax_message(text: str, fault: json.JSONDecodeError) -> str:
    if fault.pos >= len(text.rstrip()) or fault.msg.startswith("Unterminated string"):
        return "unexpected EOF"
    return f"invalid character {text[fault.pos]!r} looking for beginning of value"


def _no_constant(name: str) -> None:
    raise ApiError(400, f"invalid character {name[0]!r} looking for beginning of value")


def _struct(value: Any, shape: Struct, path: str, *, top: bool = False) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict | _Pairs):
        where = f"value of type api.{shape.name}" if top else f"struct field {path} of type {shape.go}"
        raise ApiError(400, f"json: cannot unmarshal {_kind(value)} into Go {where}")
    found: dict[str, Any] = {}
    ordered = isinstance(value, _Pairs)
    for key, item in value if isinstance(value, _Pairs) else value.items():
        name = key if key in shape.fields else shape.folded.get(key.casefold())
        if name is None:
            continue
        if name != key and not ordered:
            raise _FoldedKey
        if item is None:
            continue
        found[name] = _value(item, shape.fields[name], f"{path}.{name}")
    return found


def _value(value: Any, shape: Shape, path: str) -> Any:
    if isinstance(shape, Struct):
        return _struct(value, shape, path)
    if isinstance(shape, ListOf):
        if not isinstance(value, list) or isinstance(value, _Pairs):
            raise _mismatch(value, path, shape.go)
        return [_zero(shape.item) if item is None else _value(item, shape.item, path) for item in value]
    plain = _plain(value)
    wrong_bool = isinstance(plain, bool) and bool not in shape.takes and object not in shape.takes
    if not isinstance(plain, shape.takes) or wrong_bool:
        raise _mismatch(value, path, shape.go)
    return plain


def _zero(shape: Shape) -> Any:
    if isinstance(shape, Struct):
        return {}
    if isinstance(shape, ListOf):
        return []
    return None if object in shape.takes else shape.takes[0]()


def _plain(value: Any) -> Any:
    """Pairs become dictionaries, lone surrogates U+FFFD."""
    if isinstance(value, _Pairs):
        return {_plain(key): _plain(item) for key, item in value}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _mismatch(value: Any, path: str, go: str) -> ApiError:
    return ApiError(400, f"json: cannot unmarshal {_kind(value)} into Go struct field {path} of type {go}")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int | float):
        return "number"
    return "object" if isinstance(value, dict | _Pairs) else "array"


def _replace_one_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _REPLACEMENT, error.start + 1


codecs.register_error("bridge_go", _replace_one_byte)
