"""Serialising heads and chunks: bytes out, nothing else."""

from __future__ import annotations

import http
from collections.abc import Iterable, Sequence

from bridge_core.http1.headers import FRAMING, Pair

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode("ascii"))
    for status in http.HTTPStatus
}


class BadHeader(ValueError):
    """A header that would break the message it is written into (a line break or NUL in it)."""


def status_line(status: int) -> bytes:
    """The status line of an answer, CRLF included."""
    line = _STATUS_LINES.get(status)
    return line if line is not None else b"HTTP/1.1 %d \r\n" % status


def response_head(status: int, pairs: Iterable[Pair], framing: bytes) -> bytes:
    """The head of an answer.

    Args:
        status: The status code.
        pairs: Fields to write; framing fields among them are left out, `framing` has them.
        framing: Header lines that end in CRLF each, already checked.

    Raises:
        BadHeader: a name or value holds CR, LF or NUL.
    """
    return b"%b%b%b\r\n" % (status_line(status), _lines(pairs), framing)


def request_head(method: bytes, target: bytes, pairs: Iterable[Pair], framing: bytes) -> bytes:
    """The head of a request; see `response_head`.

    Raises:
        BadHeader: the target or a field holds CR, LF, NUL, or the target a space.
    """
    if not target or b" " in target or b"\r" in target or b"\n" in target or b"\0" in target:
        raise BadHeader(f"a request target cannot be {target[:80]!r}")
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, _lines(pairs), framing)


def _lines(pairs: Iterable[Pair]) -> bytes:
    lines = [b"%b: %b\r\n" % pair for pair in pairs if pair[0] not in FRAMING]
    block = b"".join(lines)
    count = len(lines)
    if block.count(b"\n") != count or block.count(b"\r") != count or b"\0" in block:
        raise BadHeader("a header name or value holds a line break or NUL")
    return block


def content_length(length: int) -> bytes:
    """The framing line of a body of known length."""
    return b"content-length: %d\r\n" % length


def chunk(data: bytes) -> bytes:
    """`data` as one chunk; nothing for no data, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def chunked_body(parts: Sequence[bytes]) -> bytes:
    """A whole chunked body, one chunk a part."""
    return b"".join([chunk(part) for part in parts]) + LAST_CHUNK
