"""Text from outside, fit for a terminal or a line of a log: pure.

A model's name, a fault that a node reports or a client's word may hold escape sequences that rewrite the
screen, and line ends that forge lines.
"""

from __future__ import annotations

import unicodedata

_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def one_line(text: str, most: int = 1000) -> str:
    """The text with every control, format and private character written out, and no longer than `most`."""
    cut = text[:most]
    if cut.isascii() and cut.isprintable():
        shown = cut
    else:
        shown = "".join(_escaped(one) if unicodedata.category(one) in _UNSAFE else one for one in cut)
    return shown if len(text) <= most else f"{shown}…"


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
