"""Recognising a head that comes again: a connection mostly repeats itself, but for the body's length."""

from __future__ import annotations

import re

from bridge_core.http1.headers import Headers

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})(?=[ \t]*\r\n)", re.IGNORECASE)


class RepeatedHead:
    """The head of a message that was all there was in one read, to know others like it by.

    One that has the very bytes of this head, Content-Length's digits excepted, and as much body as
    those say, is framed as this one was: it need not be parsed.

    Args:
        head: The head's bytes, checked and parsed, of a message that is framed by Content-Length or
            has no body.
        headers: What the parse gave.
    """

    __slots__ = ("_after", "_before", "_headers", "_start", "_whole", "head", "length")

    def __init__(self, head: bytes, headers: Headers) -> None:
        found = _LENGTH.search(head)
        self.head = head
        self.length = 0 if found is None else int(found.group(1))
        self._headers = headers
        self._start = len(head)
        self._whole = self._start + self.length
        self._before = head if found is None else head[: found.start(1)]
        self._after = b"" if found is None else head[found.end(1) :]

    def body_of(self, data: bytes) -> bytes | None:
        """The body, when `data` is one whole message with such a head; else None."""
        if len(data) == self._whole and data.startswith(self.head):
            return data[self._start :]
        if not self._after or not data.startswith(self._before):
            return None
        at = len(self._before)
        end = data.find(b"\r", at, at + 19)
        if end < 0 or not data.startswith(self._after, end):
            return None
        digits = data[at:end]
        body = data[end + len(self._after) :]
        return body if digits.isdigit() and int(digits) == len(body) else None

    def headers(self, length: int) -> Headers:
        """The fields of such a message with a body of `length` bytes."""
        return self._headers if length == self.length else self._headers.resized(length)
