"""Names with `*` in them, matched in linear time. Pure.

There is no other sign, and nothing is tried twice: a pattern of any shape takes one pass over the text, so
that nobody who writes a policy, and nobody who chooses a name, can make a decision slow. Regular
expressions, as Python has them, cannot promise that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

ANY: Final = "*"


class Glob:
    """A pattern in which `*` stands for any characters, also none.

    Args:
        pattern: As written.
        within: A character that `*` does not stand for; empty: it stands for any. A pattern that is `*`
            and nothing else matches everything all the same.
    """

    __slots__ = ("_parts", "_within", "pattern")

    def __init__(self, pattern: str, within: str = "") -> None:
        self.pattern = pattern
        self._within = within
        parts = pattern.split(within) if within else [pattern]
        self._parts = [part.split(ANY) for part in parts]

    def matches(self, text: str) -> bool:
        """Whether the whole of `text` is such a name."""
        if self.pattern == ANY:
            return True
        texts = text.split(self._within) if self._within else [text]
        if len(texts) != len(self._parts):
            return False
        return all(_fits(pieces, part) for pieces, part in zip(self._parts, texts, strict=True))


class Patterns:
    """Many patterns, each with a number, of which those that fit a text are found without trying all.

    They lie by what is before their first `*`: with a thousand of them next to none begins as a text does.

    Attributes:
        numbers: All that were added.
    """

    __slots__ = ("_by_beginning", "_lengths", "numbers")

    def __init__(self) -> None:
        self._by_beginning: dict[str, list[tuple[Glob, int]]] = {}
        self._lengths: set[int] = set()
        self.numbers: set[int] = set()

    def add(self, glob: Glob, number: int) -> None:
        """Adds one."""
        beginning = glob.pattern.partition(ANY)[0]
        self._by_beginning.setdefault(beginning, []).append((glob, number))
        self._lengths.add(len(beginning))
        self.numbers.add(number)

    def that_fit(self, text: str) -> Iterator[int]:
        """Numbers of those that fit."""
        for length in self._lengths:
            if length <= len(text):
                for glob, number in self._by_beginning.get(text[:length], ()):
                    if glob.matches(text):
                        yield number


def _fits(pieces: list[str], text: str) -> bool:
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        return text == first
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in pieces[1:-1]:
        # The first place is always the best one: what fits after a later one fits after it, too.
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True
