"""What the translators of all protocols share: bytes on the wire, ids, and the shape of an exchange."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import msgspec

BROKEN_OFF = "an error was encountered while running the model: the answer broke off"
"""What a client reads when the native stream ends without its last record."""


class Reply(NamedTuple):
    """A whole HTTP answer."""

    status: int
    content_type: str
    body: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Stamp:
    """What makes an answer unique; translators have neither a clock nor randomness.

    Attributes:
        created: When the request came, Unix seconds.
        token: At least 48 random hexadecimal digits, which ids are cut from.
    """

    created: int
    token: str

    def number(self, place: int, below: int) -> int:
        """A number for an id; other places give other numbers."""
        return int(self.token[place * 8 : place * 8 + 8], 16) % below

    def hex(self, place: int, digits: int = 24) -> str:
        """Hexadecimal digits for an id."""
        return (self.token + self.token)[place * 8 : place * 8 + digits]


def encode(value: Any) -> bytes:
    """JSON as Go's encoder writes it: compact, with `<`, `>` and `&` escaped."""
    encoded = msgspec.json.encode(value)
    if b"<" in encoded or b">" in encoded or b"&" in encoded:
        encoded = encoded.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    return encoded


def encode_sorted(value: Any) -> bytes:
    """The same with the keys of every object sorted, as Go writes its maps."""
    return encode(msgspec.to_builtins(value, order="sorted"))


def event(name: str, data: bytes) -> bytes:
    """One named server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def data_line(value: Any) -> bytes:
    """One unnamed server-sent event."""
    return b"data: " + encode(value) + b"\n\n"


class Stream(abc.ABC):
    """Turns native records into a protocol's stream.

    Rules:
    1. Every record goes through `feed`, in order; `finish` is called when there are no more.
    2. After the terminal record, or an error, nothing more is written.
    3. A stream that ends without its terminal record ends in an error in the protocol's shape.
    """

    def __init__(self) -> None:
        self._ended = False

    def feed(self, native: Mapping[str, Any]) -> bytes:
        """The bytes for one native record; an `error` record becomes the protocol's error."""
        if self._ended:
            return b""
        if "error" in native:
            return self.error(500, str(native["error"]))
        self._ended = bool(native.get("done"))
        return self._translate(native)

    def error(self, status: int, message: str) -> bytes:
        """The bytes that tell the client, inside the stream, that it failed."""
        if self._ended:
            return b""
        self._ended = True
        return self._failure(status, message)

    def finish(self) -> bytes:
        """The bytes that are due when the native stream has ended: none after a terminal record."""
        return self.error(500, BROKEN_OFF)

    @abc.abstractmethod
    def _translate(self, native: Mapping[str, Any]) -> bytes: ...

    @abc.abstractmethod
    def _failure(self, status: int, message: str) -> bytes: ...


class Translation(abc.ABC):
    """One request of another protocol, as the native request that answers it.

    Attributes:
        path: The native API's path: `/api/chat`, `/api/generate` or `/api/embed`.
        native: Body of the native request; its `stream` says which of `whole` and `stream` to use.
        stream_headers: Headers of a streamed answer.
    """

    path: ClassVar[str]
    native: dict[str, Any]
    stream_headers: ClassVar[tuple[tuple[bytes, bytes], ...]] = ((b"Content-Type", b"text/event-stream"),)

    @abc.abstractmethod
    def whole(self, native: Mapping[str, Any]) -> Reply:
        """The answer for a native answer that came in one piece."""

    @abc.abstractmethod
    def stream(self) -> Stream:
        """A translator for native records as they come."""

    @abc.abstractmethod
    def failure(self, status: int, message: str) -> Reply:
        """The answer when the native request failed before its first byte."""


def whole(value: Any) -> Reply:
    """A successful answer in one piece."""
    return Reply(200, "application/json", encode(value) + b"\n")


def usage(native: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of the prompt and of the answer."""
    return int(native.get("prompt_eval_count") or 0), int(native.get("eval_count") or 0)
