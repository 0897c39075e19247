"""Large JSON with long strings in it, as images and documents are sent: read without decoding those.

A decoder holds the interpreter's lock from end to end, so that even in a thread of its own it would stop
the event loop. What is done here is done in pieces, with the lock free between them. Pure.

Rules:
1. A string's content is cut short where nothing in what is left out can be other than text: no control
   character, no escape but those of two characters, and UTF-8. Whoever reads the short body then reads what
   is in the whole one, and a body that is no JSON is none when it is short either.
2. What is inside a string is known by the quotes before it, those that are escaped left out.
"""

from __future__ import annotations

import codecs
import re
import secrets
from collections.abc import Iterator
from typing import Final

LARGE: Final = 256 * 1024
"""Bytes from which a body is not read on the event loop."""

PIECE: Final = 1 << 20
STEP: Final = 64 * 1024

_CONTROLS: Final = bytes(range(0x20))
_BAD_ESCAPE: Final = re.compile(rb'\\(?!["/bfnrt])')  # where pairs of backslashes are taken out


def long_strings(body: bytes, step: int = STEP) -> Iterator[tuple[int, int]]:
    """Where long strings of nothing but text stand in a body: content that has no quote, from its first
    byte to after its last.

    Args:
        body: Any bytes.
        step: Content of twice as many bytes is found, shorter one perhaps.
    """
    counted, inside = 0, False  # up to where quotes were counted, and whether that is in a string
    at = step
    while at < len(body):
        end = body.find(b'"', at)
        if end < 0:
            return
        begin = body.rfind(b'"', 0, at) + 1
        if begin > counted and end - begin >= step:
            inside ^= bool(_quotes(body, counted, begin) % 2)
            counted = begin
            if inside:
                # The quote at its end may be an escaped one, and the escape stays whole.
                last = _unescaped(body, begin, end)
                if _is_text(body, begin, last):
                    yield begin, last
        at = end + step


def plain_strings(body: bytes, step: int = STEP) -> Iterator[tuple[int, int]]:
    """Those of them that are whole strings and stand for themselves, as no escape is in them."""
    for begin, end in long_strings(body, step):
        whole = body[begin - 2 : begin - 1] != b"\\" and body[end : end + 1] == b'"'
        if whole and body.find(b"\\", begin, end) < 0:
            yield begin, end


def _quotes(body: bytes, begin: int, end: int) -> int:
    """How many quotes that are not escaped lie between the two, neither of which parts an escape."""
    count = 0
    while begin < end:
        upto = _unescaped(body, begin, min(begin + PIECE, end))
        piece = body[begin:upto]
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        count += piece.count(b'"')
        begin = upto
    return count


def _unescaped(body: bytes, begin: int, end: int) -> int:
    """`end`, or the byte before where that is in the middle of an escape; `begin` is in none."""
    run, at = 0, end
    while at > begin:
        piece = body[max(begin, at - PIECE) : at]
        bare = len(piece) - len(piece.rstrip(b"\\"))
        run += bare
        at -= len(piece)
        if bare < len(piece):
            break
    return end - 1 if run % 2 and end - 1 > begin else end


def _is_text(body: bytes, begin: int, end: int) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    while begin < end:
        upto = _unescaped(body, begin, min(begin + PIECE, end))
        piece = body[begin:upto]
        if len(piece.translate(None, _CONTROLS)) != len(piece):
            return False
        if b"\\" in piece and _BAD_ESCAPE.search(piece.replace(b"\\\\", b"")):
            return False
        try:
            decoder.decode(piece, final=upto == end)
        except UnicodeDecodeError:
            return False
        begin = upto
    return True


class Shortened:
    """A body whose long strings are cut short, to be read in its place.

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
        for number, (begin, end) in enumerate(long_strings(body, max(STEP, 2 * keep))):
            name = b"-%b-%d-" % (word, number)
            cut = _between_characters(body, _unescaped(body, begin, begin + keep), end)
            self._cuts.append((name, cut, end))
            parts += (body[done:cut], name)
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


def _between_characters(body: bytes, at: int, end: int) -> int:
    """`at`, or where the character ends that it is in the middle of."""
    while at < end and body[at] & 0xC0 == 0x80:
        at += 1
    return at
