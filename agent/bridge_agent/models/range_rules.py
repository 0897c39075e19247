"""Which bytes a Range field asks for (RFC 9110, section 14). Pure.

Rules:
1. One range of bytes is served; more of them, or another unit, get the whole, as the RFC allows.
2. A range that begins behind the end is unsatisfiable; one that ends behind it ends there.
"""

from __future__ import annotations

import re
from typing import Final

_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


class Unsatisfiable(Exception):
    """No byte of the blob is in the range."""


def wanted(field: bytes | None, size: int) -> tuple[int, int] | None:
    """The first byte and the one behind the last that are asked for; None: the whole.

    Raises:
        Unsatisfiable: the range has no byte of a blob of `size` bytes.
    """
    found = _RANGE.fullmatch((field or b"").decode("latin-1"))
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        last = int(found[2])
        if not last or not size:
            raise Unsatisfiable
        return max(0, size - last), size
    begin = int(found[1])
    end = int(found[2]) + 1 if found[2] else size
    if found[2] and end <= begin:
        return None  # senseless, and so ignored
    if begin >= size:
        raise Unsatisfiable
    return begin, min(end, size)
