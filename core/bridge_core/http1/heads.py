"""Serialising heads and chunks: bytes out, nothing else."""

from __future__ import annotations

import http
import re
from collections.abc import Iterable, Sequence

from bridge_core.http1.headers import FRAMING, Pair

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode("ascii"))
    for status in http.HTTPStatus
}

_FIELD = b": ".join
_TARGET = re.compile(rb"[!-~]+")


class BadHeader(ValueError):
    """A header that would break the message it is written into (a line break or NUL in it)."""


def lines(pairs: Iterable[Pair]) -> bytes:
    """Header lines of `pairs`; framing fields among them are left out, the framing is written anew.

    Raises:
        BadHeader: a name or value holds CR, LF or NUL.
    """
    written = [_FIELD(pair) for pair in pairs if pair[0] not in FRAMING]
    if not written:
        return b""
    block = b"\r\n".join(written)
    breaks = len(written) - 1
    if block.count(b"\n") != breaks or block.count(b"\r") != breaks or block.count(b"\0"):
        raise BadHeader("a header name or value holds a line break or NUL")
    return block + b"\r\n"


def response_head(status: int, fields: Iterable[Pair] | bytes, framing: bytes) -> bytes:
    """The head of an answer.

    Args:
        status: The status code.
        fields: Pairs, or header lines that were checked already (`lines`, `Headers.block`).
        framing: The header lines that delimit the body.

    Raises:
        BadHeader: see `lines`.
    """
    if not isinstance(fields, bytes):
        fields = lines(fields)
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"".join((line, fields, framing, b"\r\n"))


def request_head(method: bytes, target: bytes, fields: Iterable[Pair] | bytes, framing: bytes) -> bytes:
    """The head of a request; see `response_head`.

    Raises:
        BadHeader: a field or the target cannot be written.
    """
    if not isinstance(fields, bytes):
        fields = lines(fields)
    return b"%b%b%b\r\n" % (request_line(method, target), fields, framing)


def request_line(method: bytes, target: bytes) -> bytes:
    """The first line of a request.

    Raises:
        BadHeader: the target cannot be written.
    """
    if _TARGET.fullmatch(target) is None:
        raise BadHeader(f"a request target cannot be {target[:80]!r}")
    return b"%b %b HTTP/1.1\r\n" % (method, target)


def content_length(length: int) -> bytes:
    """The framing line of a body of known length."""
    return b"content-length: %d\r\n" % length


def chunk(data: bytes) -> bytes:
    """`data` as one chunk; nothing for no data, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def chunked_body(parts: Sequence[bytes]) -> bytes:
    """A whole chunked body, one chunk a part."""
    return b"".join([chunk(part) for part in parts]) + LAST_CHUNK
