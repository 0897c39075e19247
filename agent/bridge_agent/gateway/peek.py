"""What a request's body says about where it should go, read without decoding the rest.

An engine reads bodies by Go's rules: keys match without regard to case, of duplicate keys the
last non-null one wins, what follows the first value is ignored, invalid UTF-8 is replaced. We
read by the strict rules and refuse each body that the two could read differently in a key that
a decision hangs on, so that what was decided on is what the engine sees.

Rules:
1. A decision key comes at most once at the top level, in its exact spelling, unescaped.
2. Nothing but white space follows the value.
3. The value of a decided string (a model's name) is valid UTF-8.
4. Everything else, unknown fields too, passes untouched and unread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from bridge_core.errors import BridgeError

Fields = dict[str, msgspec.Raw]

_fields: Final = msgspec.json.Decoder(Fields)
_string: Final = msgspec.json.Decoder(str)

# JSON escapes of an ASCII letter or underscore, and of the two letters that fold to ASCII ones.
_ESCAPED_LETTER: Final = re.compile(
    rb"\\u(?:00(?:4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9a])|017f|212a)", re.IGNORECASE
)
_TYPES: Final = {
    ord('"'): "string",
    ord("{"): "object",
    ord("["): "array",
    ord("t"): "bool",
    ord("f"): "bool",
    ord("n"): "null",
}


class BadBody(BridgeError):
    """A body that the engine would refuse, or that could be read in two ways."""


class Shape(msgspec.Struct, frozen=True):
    """How the body of a route is read.

    Attributes:
        go_type: The name that Ollama's own error messages give the request.
        keys: Keys that a decision hangs on.
        model_keys: Keys that may hold the model's name, the first non-empty one wins.
        streams: Whether the answer streams when the body does not say.
    """

    go_type: str
    keys: frozenset[str]
    model_keys: tuple[str, ...] = ("model",)
    streams: bool = False


class Peek(msgspec.Struct, frozen=True, gc=False):
    """What a body said.

    Attributes:
        model: The model's name as written; empty when there is none.
        stream: Whether the client asked for a stream, defaults applied.
        fields: The top-level values, undecoded.
    """

    model: str
    stream: bool
    fields: Fields


def peek(body: bytes, shape: Shape) -> Peek:
    """Reads what decisions need.

    Raises:
        BadBody: no body, no JSON object, a decided field of the wrong type, or a body that an
            engine could read differently.
    """
    try:
        fields = _fields.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as fault:
        fields = _unusual(body, shape, fault)
    # Written without spaces (as Go, JavaScript and httpx do), a body of exactly this length has no
    # room for a repeated or escaped key. Others take the counting way.
    shortest = 4 * len(fields) + 1 + sum(map(len, fields)) + sum(map(len, fields.values()))
    if len(body) != shortest or not shape.keys.issuperset(fields):
        _refuse_ambiguous(body, fields, shape)
    model = ""
    for key in shape.model_keys:
        if key in fields:
            model = model or _text(fields[key], key, shape)
    stream = fields.get("stream")
    return Peek(model, shape.streams if stream is None else _flag(stream, "stream", shape), fields)


def text(peeked: Peek, key: str, shape: Shape) -> str:
    """A further string of the body, such as `source` of a copy; empty when absent.

    Raises:
        BadBody: it is not a string.
    """
    raw = peeked.fields.get(key)
    return "" if raw is None else _text(raw, key, shape)


def with_model(fields: Mapping[str, msgspec.Raw], key: str, model: str) -> bytes:
    """The body with another model's name; every other value keeps its bytes."""
    return msgspec.json.encode({**fields, key: model})


def _unusual(body: bytes, shape: Shape, fault: Exception) -> Fields:
    """What a body that is no JSON object is taken for, or refused with."""
    if not body:
        raise BadBody("missing request body") from None
    if isinstance(fault, msgspec.ValidationError):
        if body.strip(b" \t\r\n") == b"null":
            return {}
        kind = _type_of(body.lstrip(b" \t\r\n"))
        raise BadBody(f"json: cannot unmarshal {kind} into Go value of type api.{shape.go_type}") from None
    if isinstance(fault, RecursionError):
        raise BadBody("invalid JSON: exceeded max depth") from None
    if isinstance(fault, UnicodeDecodeError):
        raise BadBody("invalid JSON: a key is not valid UTF-8") from None
    raise BadBody(_syntax_message(str(fault))) from None


def _syntax_message(detail: str) -> str:
    if "truncated" in detail:
        return "unexpected EOF"
    if "trailing characters" in detail:
        return "invalid JSON: unexpected data after the request object"
    return "invalid JSON: " + detail.removeprefix("JSON is malformed: ")


def _refuse_ambiguous(body: bytes, fields: Fields, shape: Shape) -> None:
    for key in fields:
        if key not in shape.keys and key.casefold() in shape.keys:
            raise BadBody(f'ambiguous request body: "{key}" must be written "{key.casefold()}"')
    if b"\\u" in body and _outside(_ESCAPED_LETTER, body, fields):
        raise BadBody("ambiguous request body: escaped letters in a key")
    for key in shape.keys.intersection(fields):
        quoted = b'"%b"' % key.encode()
        if body.count(quoted) > 1 and _outside(re.compile(quoted), body, fields) > 1:
            raise BadBody(f'ambiguous request body: "{key}" is given more than once')


def _outside(pattern: re.Pattern[bytes], body: bytes, fields: Fields) -> int:
    """Matches in the body that are not inside a top-level value."""
    total = sum(1 for _ in pattern.finditer(body))
    return total and total - sum(sum(1 for _ in pattern.finditer(value)) for value in fields.values())


def _text(raw: msgspec.Raw, key: str, shape: Shape) -> str:
    try:
        return _string.decode(raw)
    except msgspec.ValidationError:
        kind = _type_of(bytes(raw))
        if kind == "null":
            return ""
        message = f"json: cannot unmarshal {kind} into Go struct field {shape.go_type}.{key} of type string"
        raise BadBody(message) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadBody(f'ambiguous request body: "{key}" is not valid UTF-8') from None


def _flag(raw: msgspec.Raw, key: str, shape: Shape) -> bool:
    value = bytes(raw)
    if value == b"true":
        return True
    if value == b"false":
        return False
    if value == b"null":
        return shape.streams
    kind = _type_of(value)
    raise BadBody(f"json: cannot unmarshal {kind} into Go struct field {shape.go_type}.{key} of type bool")


def _type_of(value: bytes) -> str:
    return _TYPES.get(value[0] if value else 0, "number")
