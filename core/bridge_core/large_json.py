"""Large JSON with long strings of base64 in it, as images are sent: read without decoding those.

A decoder holds the interpreter's lock from end to end, so that even in a thread of its own it would stop
the event loop. What is done here is done in pieces, with the lock free between them. Pure.
"""

from __future__ import annotations

import secrets
from typing import Final

LARGE: Final = 256 * 1024
"""Bytes from which a body is not read on the event loop."""

BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
PIECE: Final = 1 << 20
STEP: Final = 64 * 1024


def base64_strings(body: bytes, step: int = STEP) -> list[tuple[int, int]]:
    """Where strings of nothing but base64 stand in a body, from their first byte to after their last.

    What stands between two quotes, the first of them not escaped, and has no character but these is a
    whole string, or the body is not JSON.

    Args:
        body: Any bytes.
        step: Strings of twice as many bytes are found, shorter ones perhaps.
    """
    found: list[tuple[int, int]] = []
    done, at = 0, step
    while at < len(body):
        end = body.find(b'"', at)
        begin = body.rfind(b'"', 0, at) + 1
        if end < 0:
            break
        whole = begin > done and body[begin - 2 : begin - 1] != b"\\"
        if whole and end - begin >= step and _is_base64(body, begin, end):
            found.append((begin, end))
            done = end
        at = end + step
    return found


def _is_base64(body: bytes, begin: int, end: int) -> bool:
    pieces = range(begin, end, PIECE)
    return not any(body[at : min(at + PIECE, end)].translate(None, BASE64) for at in pieces)


class Shortened:
    """A body whose long strings of base64 are cut short, to be read in its place.

    Attributes:
        text: The short body: each of those strings is its beginning and a word that nobody can foresee.

    Args:
        body: Any bytes.
        keep: Bytes of each string that stay.
    """

    __slots__ = ("_body", "_cuts", "text")

    def __init__(self, body: bytes, keep: int) -> None:
        self._body = body
        self._cuts: list[tuple[bytes, int, int]] = []
        word = secrets.token_hex(16).encode()
        parts: list[bytes] = []
        done = 0
        for number, (begin, end) in enumerate(base64_strings(body, max(STEP, 2 * keep))):
            name = b"-%b-%d-" % (word, number)
            self._cuts.append((name, begin + keep, end))
            parts += (body[done : begin + keep], name)
            done = end
        self.text = b"".join([*parts, body[done:]]) if parts else body

    def whole(self, text: bytes) -> bytes:
        """What was made of the short body, with the strings whole again."""
        if not self._cuts:
            return text
        view = memoryview(self._body)
        parts: list[bytes | memoryview] = []
        for name, begin, end in self._cuts:
            before, found, text = text.partition(name)
            parts.append(before)
            if found:
                parts.append(view[begin:end])
        return b"".join([*parts, text])
