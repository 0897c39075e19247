"""HTTP/2 frames by hand (RFC 9113), for who has to say exactly what goes over the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 2, 3, 4
HEAD_BYTES: Final = 9
FIRST_WINDOW: Final = 65_535
"""Bytes that either side may send before it hears of more."""


class Frame(NamedTuple):
    """One frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame as it is sent."""
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3, "big"), kind, flags, stream.to_bytes(4, "big"), payload)


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    pairs = (name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values.items())
    return frame(SETTINGS, 0, 0, b"".join(pairs))


def frames(buffer: bytearray) -> Iterator[Frame]:
    """Takes the whole frames off the front of `buffer`."""
    at, size = 0, len(buffer)
    try:
        while size - at >= HEAD_BYTES:
            length = int.from_bytes(buffer[at : at + 3], "big")
            end = at + HEAD_BYTES + length
            if size < end:
                return
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            found = Frame(buffer[at + 3], buffer[at + 4], stream, bytes(buffer[at + HEAD_BYTES : end]))
            at = end
            yield found
    finally:
        del buffer[:at]


def field(name: bytes, value: bytes) -> bytes:
    """A header field that neither side remembers (RFC 7541, 6.2.2), its strings not packed."""
    return b"\0" + _string(name) + _string(value)


def call_head(path: bytes, *more: tuple[bytes, bytes], authority: bytes = b"localhost") -> bytes:
    """The header block of a gRPC call."""
    fields = (
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", path),
        (b":authority", authority),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *more,
    )
    return b"".join(field(name, value) for name, value in fields)


def message(data: bytes) -> bytes:
    """A gRPC message as it lies in DATA frames."""
    return b"\0" + len(data).to_bytes(4, "big") + data


def _string(data: bytes) -> bytes:
    size = len(data)
    if size < 127:
        return b"%c%b" % (size, data)
    rest, octets = size - 127, bytearray(b"\x7f")
    while rest >= 128:
        octets.append(rest % 128 + 128)
        rest //= 128
    octets.append(rest)
    return bytes(octets) + data
