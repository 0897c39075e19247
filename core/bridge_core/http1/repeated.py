"""Recognising a head that comes again: a connection mostly repeats itself, but for a few values."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from bridge_core.http1.headers import LENGTH, Headers

# What may stand in the place of a value; possessive, so that a head that does not fit is refused at once.
_DIGITS: Final = rb"([0-9]{1,18}+)"
_VISIBLE: Final = rb"([!-~]{1,255}+)"


class _Value(NamedTuple):
    """A field's value in a head: its name, and where it begins and ends."""

    name: bytes
    begin: int
    end: int


class RepeatedHead:
    """The head of a message that was all there was in one read, to know others like it by.

    One that has the very bytes of this head, Content-Length's digits and the values of `varying`
    excepted, and as much body as those digits say, is framed as this one was: it need not be parsed.
    Values that differ are taken where they are of visible ASCII alone, which no parser reads otherwise.

    Args:
        head: The head's bytes, checked and parsed, of a message that is framed by Content-Length or
            has no body.
        headers: What the parse gave.
        varying: Names of fields whose values may differ, lower-case.
    """

    __slots__ = ("_head", "_headers", "_length", "_names", "_others", "_start", "_varying", "_whole")

    def __init__(self, head: bytes, headers: Headers, varying: frozenset[bytes] = frozenset()) -> None:
        self._head = head
        self._headers = headers
        self._start = len(head)
        self._whole = self._start + int(headers.get(LENGTH) or 0)
        values = _values(head, headers, varying | {LENGTH})
        self._names = [value.name for value in values]
        self._varying = frozenset(self._names) - {LENGTH}
        self._length = 0  # which of the values it is
        self._others: re.Pattern[bytes] | None = None
        if LENGTH in self._names:
            self._length = self._names.index(LENGTH)
            self._others = _pattern(head, values)

    def read(self, data: bytes) -> tuple[Headers, bytes] | None:
        """Fields and body, when `data` is one whole message with such a head; else None."""
        if len(data) == self._whole and data.startswith(self._head):
            return self._headers, data[self._start :]
        others = self._others
        found = None if others is None else others.match(data)
        if found is None:
            return None
        values, start = found.groups(), found.end()
        if len(data) - start != int(values[self._length]):
            return None
        return self._headers.changed(dict(zip(self._names, values, strict=True)), self._varying), data[start:]


def _pattern(head: bytes, values: list[_Value]) -> re.Pattern[bytes]:
    """What heads look like that differ from this one in these values alone."""
    parts, at = [], 0
    for name, begin, end in values:
        parts += [re.escape(head[at:begin]), _DIGITS if name == LENGTH else _VISIBLE]
        at = end
    return re.compile(b"".join([*parts, re.escape(head[at:])]))


def _values(head: bytes, headers: Headers, names: frozenset[bytes]) -> list[_Value]:
    """Where the values are of those fields among `names` that come once.

    None at all where the lines are not plainly the fields, one for one (a folded line, say).
    """
    found = []
    lines = head.split(b"\r\n")[1:-2]
    if len(lines) != len(headers):
        return []
    begin = head.find(b"\r\n") + 2
    for line, (name, value) in zip(lines, headers, strict=True):
        written, colon, raw = line.partition(b":")
        if written.lower() != name or raw.strip(b" \t") != value:
            return []
        if name in names and value and len(headers.get_all(name)) == 1:
            at = begin + len(written) + len(colon) + len(raw) - len(raw.lstrip(b" \t"))
            found.append(_Value(name, at, at + len(value)))
        begin += len(line) + 2
    return found
