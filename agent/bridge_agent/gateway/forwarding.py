"""A client's request as it goes to another server, with a body that is known or that still comes."""

from __future__ import annotations

from bridge_core.http1 import Headers, Request
from bridge_core.http1.heads import content_length, request_line


def forwarded_head(request: Request, host: bytes, without: frozenset[bytes]) -> bytes:
    """The request line and fields; made once for all requests that repeat the head.

    Args:
        request: The client's.
        host: The server's.
        without: Names of fields that are not passed on, besides the hop-by-hop ones.

    Raises:
        BadHeader: the target cannot be written.
    """
    key = (host, without)
    repeats = request.headers.repeats(without)
    head: bytes | None = request.memo.get(key) if repeats else None
    if head is None:
        line = request_line(request.method.encode("ascii"), request.target)
        head = b"%bhost: %b\r\n%b" % (line, host, request.headers.block(without))
        if repeats:
            request.memo[key] = head
    return head


def with_body(head: bytes, extra: bytes, body: bytes) -> bytes:
    """The request with a body of known length; `extra` are header lines to add, checked already."""
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, extra, len(body), body)


def before_body(head: bytes, extra: bytes, size: int) -> bytes:
    """The request before a body of so many bytes, which is too large to be copied."""
    return b"%b%b%b\r\n" % (head, extra, content_length(size))


def with_stream(head: bytes, extra: bytes, headers: Headers) -> tuple[bytes, bool]:
    """The request before a body that still comes, and whether that is to be written in chunks.

    `headers` are the client's.
    """
    length = headers.get(b"content-length")
    framing = b"transfer-encoding: chunked\r\n" if length is None else content_length(int(length))
    return b"%b%b%b\r\n" % (head, extra, framing), length is None
