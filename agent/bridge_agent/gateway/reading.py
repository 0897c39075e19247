"""The body of a request: as it is passed on, and as it is read to decide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.peek import BadBody, Peek, Shape, peek, text
from bridge_agent.gateway.routes import HttpRoute
from bridge_agent.peers.hop import BadHop, decompress, unpacked_size
from bridge_agent.routing.affinity import BEGINNING
from bridge_core.large_json import LARGE, PIECE, Shortened
from bridge_core.names import InvalidName, canonical, canonical_or_same

_RESPONSES_MOST: Final = 20 << 20  # what Ollama accepts of a compressed /v1/responses body
# Where a mutation says what it makes.
_MADE: Final = {
    "/api/copy": ("destination",),
    "/api/create": ("model", "name"),
    "/api/pull": ("model", "name"),
}
# A keep_alive of no time at all; what holds a request's question, and how it is empty.
_NO_TIME: Final = re.compile(rb'-?0(?:\.0+)?|"[+-]?0+(?:\.0*)?(?:ns|us|ms|s|m|h)?"')
_ASKED: Final = {"/api/generate": "prompt", "/api/chat": "messages"}
_NOTHING: Final = (b'""', b"[]", b"null")
SPECIAL: Final = ("/v1/responses", "/v1/audio/transcriptions")
_MODEL_HEAD: Final = re.compile(
    rb'content-disposition:[^\r\n]*[; ]name=(?:"model"|model)[ \t]*(?:[;\r\n]|$)', re.IGNORECASE
)
_PART_MOST: Final = 8 * 1024  # of a part's head, and of a model's name
_PARTS_MOST: Final = 1000
_NAME_MOST: Final = 600  # more than any name has


def is_large(arrival: Arrival, route: HttpRoute) -> bool:
    """Whether a body is too large to be read on the event loop."""
    body = arrival.exchange.request.body
    if len(body) >= LARGE:
        return True
    hop = arrival.hop
    if hop is None and route.path not in SPECIAL:
        return False
    packed = (hop is not None and hop.compressed) or is_compressed(arrival, route)
    return packed and unpacked_size(body) >= LARGE


class LargeBody(msgspec.Struct, frozen=True):
    """A large body, read in a thread.

    Attributes:
        body: As it is passed on.
        peeked: What was read.
        packed: It is a zstd frame that the client made.
        shortened: What was read in its place.
    """

    body: bytes
    peeked: Peek
    packed: bool
    shortened: Shortened


def read_large(arrival: Arrival, route: HttpRoute, limit: int, shape: Shape) -> LargeBody:
    """Reads a large body; to be called in a thread.

    Raises:
        BadBody: it cannot be read.
    """
    body, readable = body_of(arrival, route, limit)
    shortened = Shortened(readable, 2 * BEGINNING)  # of which an escape takes two bytes each
    packed = readable is not body and is_compressed(arrival, route)
    return LargeBody(body, peek(shortened.text, shape), packed, shortened)


def body_of(arrival: Arrival, route: HttpRoute, limit: int) -> tuple[bytes, bytes]:
    """The body to pass on and the body to read.

    Raises:
        BadBody: it cannot be read.
    """
    request = arrival.exchange.request
    body = request.body
    if arrival.hop is None and route.path not in SPECIAL:
        return body, body
    try:
        if arrival.hop is not None and arrival.hop.compressed:
            body = decompress(body, limit)
        if is_compressed(arrival, route):
            return body, decompress(body, _RESPONSES_MOST)
    except BadHop as fault:
        raise BadBody(fault.message) from fault
    if route.path == "/v1/audio/transcriptions":
        return body, _form_as_json(body)
    return body, body


def _form_as_json(body: bytes) -> bytes:
    """The model of a multipart form, as the JSON that the other routes have."""
    found = [value for value in map(_model_of_part, _parts(body)) if value is not None]
    if len(found) > 1:
        raise BadBody('ambiguous request body: "model" is given more than once')
    try:
        return msgspec.json.encode({"model": found[0].decode() if found else ""})
    except UnicodeDecodeError:
        raise BadBody('ambiguous request body: "model" is not valid UTF-8') from None


def _parts(body: bytes) -> Iterator[bytes]:
    """The beginning of whatever may be a part of a form. A file in it is passed over, not looked through."""
    at, count = 0, 0
    while at >= 0:
        yield body[at : at + _PART_MOST]
        count += 1
        if count > _PARTS_MOST:
            raise BadBody(f"a form has no more than {_PARTS_MOST} parts")
        at = _next_part(body, at + 1)


def _next_part(body: bytes, at: int) -> int:
    """In pieces, between which others get their turn; -1: there is none."""
    for start in range(at, len(body), PIECE):
        found = body.find(b"\r\n--", start, start + PIECE + 3)
        if found >= 0:
            return found
    return -1


def _model_of_part(beginning: bytes) -> bytes | None:
    head, _, rest = beginning.partition(b"\r\n\r\n")
    if _MODEL_HEAD.search(head) is None:
        return None
    value, end, after = rest.partition(b"\r\n")
    return value if end and after.startswith(b"--") else None


def is_compressed(arrival: Arrival, route: HttpRoute) -> bool:
    """Whether the client sent a zstd body on the one route that takes them."""
    if route.path != "/v1/responses":
        return False
    return arrival.exchange.request.headers.get(b"content-encoding") == b"zstd"


def unloads(peeked: Peek, route: HttpRoute) -> bool:
    """Whether a body asks for nothing but to have its model unloaded, as `ollama stop` does."""
    given = peeked.fields.get("keep_alive")
    if given is None or _NO_TIME.fullmatch(given) is None:
        return False
    key = _ASKED.get(route.path)
    return key is not None and bytes(peeked.fields.get(key, b"null")) in _NOTHING


def models_made(body: bytes, route: HttpRoute) -> tuple[str, ...]:
    """The models that are there, in canonical form, once a mutation with this body succeeded."""
    keys = _MADE.get(route.path)
    if keys is None or route.shape is None:
        return ()
    peeked = peek(body, route.shape)
    named = next((name for key in keys if (name := text(peeked, key, route.shape))), "")
    try:
        return (canonical(named),)
    except InvalidName:
        return ()


def names_in(peeked: Peek, route: HttpRoute) -> tuple[str, ...]:
    """Every model that a mutation names, in canonical form; what is no name stays as it is.

    Raises:
        BadBody: one of them is not a string.
    """
    if route.shape is None:
        return ()
    found = []
    for key in ("model", "name", "source", "destination", "from"):
        name = text(peeked, key, route.shape)
        if name:
            found.append(canonical_or_same(name[:_NAME_MOST]))
    return tuple(found)
