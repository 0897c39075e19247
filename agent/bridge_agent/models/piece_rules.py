"""How a blob is cut into pieces, and how it is said which of them somebody has. Pure.

Rules:
1. A piece has 4 MiB, or the power of two above that with which a blob has at most `MOST_PIECES`; the last
   one is shorter. The size of a blob alone says how it is cut, so all nodes cut it alike.
2. Which pieces somebody has travels as hexadecimal digits, the bit of piece 0 lowest; "all" is short for
   every one.
"""

from __future__ import annotations

import re
from typing import Final

SMALLEST: Final = 4 << 20
MOST_PIECES: Final = 1 << 14
MOST_BYTES: Final = 1 << 43
"""Of a blob, 8 TiB: beyond it a size is a mistake or an attack."""

ALL: Final = "all"
_DIGITS: Final = re.compile(r"[0-9a-f]{1,4096}")


def piece_size(size: int) -> int:
    """Bytes of each piece but the last of a blob of `size` bytes."""
    piece = SMALLEST
    while piece * MOST_PIECES < size:
        piece *= 2
    return piece


def piece_count(size: int) -> int:
    """How many pieces a blob of `size` bytes has; an empty one has none."""
    return -(-size // piece_size(size))


def span(size: int, piece: int) -> tuple[int, int]:
    """Where a piece begins and how many bytes it has.

    Raises:
        IndexError: the blob has no such piece.
    """
    if not 0 <= piece < piece_count(size):
        raise IndexError(f"piece {piece} of a blob that has {piece_count(size)}")
    begin = piece * piece_size(size)
    return begin, min(piece_size(size), size - begin)


def write_have(have: int, count: int) -> str:
    """What is had, as it travels; `have` is a number whose bits are the pieces."""
    return ALL if have == (1 << count) - 1 else f"{have:x}"


def read_have(text: str, count: int) -> int:
    """The number whose bits are the pieces that somebody has.

    Raises:
        ValueError: it says something else, or names pieces that there are not.
    """
    whole = (1 << count) - 1
    if text == ALL:
        return whole
    if _DIGITS.fullmatch(text) is None:
        raise ValueError("which pieces it has is not said in hexadecimal digits")
    have = int(text, 16)
    if have > whole:
        raise ValueError(f"it says that it has pieces beyond the {count} that there are")
    return have
