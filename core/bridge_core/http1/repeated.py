"""Recognising a head that comes again: a connection mostly repeats itself, but for a few values."""

from __future__ import annotations

from typing import Final

from bridge_core.http1.headers import Headers

_LENGTH: Final = b"content-length"
_LENGTH_MOST: Final = 18  # digits
_VALUE_MOST: Final = 256
_VISIBLE: Final = bytes(range(0x21, 0x7F))


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

    __slots__ = (
        "_digits",
        "_first",
        "_head",
        "_headers",
        "_sized",
        "_spots",
        "_start",
        "_varying",
        "_whole",
    )

    def __init__(self, head: bytes, headers: Headers, varying: frozenset[bytes] = frozenset()) -> None:
        digits = self._digits = headers.get(_LENGTH)
        self._head = head
        self._headers = headers
        self._start = len(head)
        self._whole = self._start + int(digits or 0)
        values = _values(head, headers, varying | {_LENGTH})
        names = [name for _, name, _, _ in values]
        self._sized = _LENGTH in names
        self._varying = frozenset(names) - {_LENGTH}
        begins = [*(begin for _, _, begin, _ in values), len(head)]
        self._first = head[: begins[0]]
        # Of each value: its place, its name (None: the length), and what follows it up to the next one.
        self._spots = [
            (place, None if name == _LENGTH else name, head[end:begin])
            for (place, name, _, end), begin in zip(values, begins[1:], strict=True)
        ]

    def read(self, data: bytes) -> tuple[Headers, bytes] | None:
        """Fields and body, when `data` is one whole message with such a head; else None."""
        if len(data) == self._whole and data.startswith(self._head):
            return self._headers, data[self._start :]
        if not self._sized or not data.startswith(self._first):
            return None
        at = len(self._first)
        length = -1
        changes = []
        for place, name, after in self._spots:
            end = data.find(b"\r", at, at + _VALUE_MOST)
            if end <= at or not data.startswith(after, end):
                return None
            value = data[at:end]
            at = end + len(after)
            if name is None:
                if not value.isdigit() or len(value) > _LENGTH_MOST:
                    return None
                length = int(value)
                if value != self._digits:
                    changes.append((place, (_LENGTH, value)))
            elif value.translate(None, _VISIBLE):
                return None
            else:
                changes.append((place, (name, value)))
        if len(data) - at != length:
            return None
        return self._headers.changed(changes, self._varying), data[at:]


def _values(head: bytes, headers: Headers, names: frozenset[bytes]) -> list[tuple[int, bytes, int, int]]:
    """Of each field among `names` that comes once: its place in the head, name, and its value's bounds.

    None at all where the lines are not plainly the fields, one for one (a folded line, say).
    """
    found = []
    lines = head.split(b"\r\n")[1:-2]
    if len(lines) != len(headers):
        return []
    begin = head.find(b"\r\n") + 2
    for place, (line, (name, value)) in enumerate(zip(lines, headers, strict=True)):
        written, colon, raw = line.partition(b":")
        if written.lower() != name or raw.strip(b" \t") != value:
            return []
        if name in names and value and len(headers.get_all(name)) == 1:
            at = begin + len(written) + len(colon) + len(raw) - len(raw.lstrip(b" \t"))
            found.append((place, name, at, at + len(value)))
        begin += len(line) + 2
    return found
