"""What a bucket says in XML, whoever wrote it. Pure.

Rules:
1. A document with a DOCTYPE is refused: so none has entities of its own, which is what bombs are made of.
2. Depth, the length of a text and the number of entries are bounded.
3. What is not asked for is passed over, as the next version of a store says more.
"""

from __future__ import annotations

from typing import Final
from xml.parsers import expat

import msgspec

MOST_BYTES: Final = 8 << 20
_MOST_DEPTH: Final = 16
_MOST_TEXT: Final = 4096
_MOST_ENTRIES: Final = 1000  # of one answer, as S3 has it


class BadAnswer(ValueError):
    """No store in good faith answers that."""


class Entry(msgspec.Struct, frozen=True):
    """An object, or an upload in parts that is under way.

    Attributes:
        key: Its name in the bucket.
        size: Its bytes.
        upload: The upload's number; empty: it is an object.
        begun: When the upload began, as ISO 8601.
    """

    key: str
    size: int = 0
    upload: str = ""
    begun: str = ""


class Listing(msgspec.Struct, frozen=True):
    """One answer of a listing.

    Attributes:
        root: The document's outermost element.
        entries: What it lists.
        next: What goes on from here is asked for with; empty: nothing does.
        upload: The number of an upload that was begun.
    """

    root: str
    entries: tuple[Entry, ...] = ()
    next: str = ""
    upload: str = ""


class _Reading:
    def __init__(self) -> None:
        self.root = ""
        self.texts: dict[str, str] = {}  # of the outermost element's own
        self.entries: list[Entry] = []
        self._names: list[str] = []
        self._fields: dict[str, str] = {}
        self._parts: list[str] = []
        self._length = 0

    def begin(self, name: str, _: dict[str, str]) -> None:
        if not self._names:
            self.root = name
        self._names.append(name)
        if len(self._names) > _MOST_DEPTH:
            raise BadAnswer(f"more than {_MOST_DEPTH} elements lie in each other")
        if self._is_entry():
            self._fields = {}
        self._parts, self._length = [], 0

    def text(self, data: str) -> None:
        self._length += len(data)
        if self._length > _MOST_TEXT:
            raise BadAnswer(f"a text has more than {_MOST_TEXT} characters")
        self._parts.append(data)

    def end(self, name: str) -> None:
        text = "".join(self._parts).strip()
        self._parts, self._length = [], 0
        if len(self._names) == 2 and not self._is_entry():
            self.texts[name] = text
        elif len(self._names) == 3:
            self._fields[name] = text
        elif self._is_entry():
            self._entry()
        self._names.pop()

    def _is_entry(self) -> bool:
        return len(self._names) == 2 and self._names[1] in ("Contents", "Upload")

    def _entry(self) -> None:
        if len(self.entries) >= _MOST_ENTRIES:
            raise BadAnswer(f"it lists more than the {_MOST_ENTRIES} that one answer has")
        fields, size = self._fields, self._fields.get("Size", "0")
        if not (size.isascii() and size.isdecimal() and len(size) < 16):
            raise BadAnswer("a size is no number")
        self.entries.append(
            Entry(fields.get("Key", ""), int(size), fields.get("UploadId", ""), fields.get("Initiated", ""))
        )


def read(data: bytes) -> Listing:
    """What a document says. Raises BadAnswer."""
    reading = _Reading()
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise BadAnswer("it has a DOCTYPE")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = reading.begin
    parser.CharacterDataHandler = reading.text
    parser.EndElementHandler = reading.end
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, UnicodeError) as fault:
        raise BadAnswer(f"it is no XML: {fault}") from None
    texts = reading.texts
    goes_on = texts.get("IsTruncated", "") == "true"
    return Listing(
        reading.root,
        tuple(reading.entries),
        texts.get("NextContinuationToken", "") if goes_on else "",
        texts.get("UploadId", ""),
    )
