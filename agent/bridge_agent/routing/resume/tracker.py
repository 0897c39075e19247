"""What of a stream its client has: kept cheaply while it runs, read only when it died.

Rules:
1. `feed` takes every byte that the client gets, in whatever pieces. Records are read in batches, so
   that a chunk on its way costs an append.
2. What is kept is bounded: one batch of records and the text. A stream whose text outgrows the bound,
   or whose records cannot be read, is `lost`: it can no longer be continued.
3. What a tracker says holds for the bytes fed up to `settle`, which whoever reads calls first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

import msgspec

BATCH: Final = 4096
"""Bytes of records that are kept unread."""
MAX_TEXT: Final = 1 << 20
"""Bytes of text beyond which a stream is not continued."""

Continued = dict[str, Any]


class Tracker(ABC):
    """Follows one stream of one protocol, and continues it in the same framing.

    Attributes:
        fed: Pieces taken: grows while the stream moves.
        tokens: Records that brought text, which is nearly the tokens delivered: an engine may join a
            few tokens that only together make a character.
        thinking: It brought the model's thinking.
        tools: It brought a tool call.
        lost: It cannot be continued.
        begun: A record was delivered.
        finished: Its text is whole, only records that end it are missing.
    """

    __slots__ = (
        "_blank",
        "_last",
        "_pending",
        "_size",
        "_text",
        "begun",
        "fed",
        "finished",
        "lost",
        "thinking",
        "tokens",
        "tools",
    )

    def __init__(self) -> None:
        self._pending: list[bytes] = []
        self._size = 0
        self._text = bytearray()
        self._blank = True  # the last whole line ended a record
        self._last = b""
        self.fed = 0
        self.tokens = 0
        self.thinking = False
        self.tools = False
        self.lost = False
        self.begun = False
        self.finished = False

    def feed(self, data: bytes) -> None:
        """Takes the next bytes that the client gets."""
        self.fed += 1
        self._pending.append(data)
        self._size += len(data)
        if self._size > BATCH:
            self._read()

    def settle(self) -> None:
        """Reads what was kept unread; half a line at the end cannot be taken back from the client."""
        self._read()
        if self._pending:
            self.lost = True

    @property
    def text(self) -> str:
        """The text that the client has."""
        return self._text.decode()

    def _read(self) -> None:
        data = b"".join(self._pending)
        end = data.rfind(b"\n") + 1
        self._pending = [data[end:]] if end < len(data) else []
        self._size = len(data) - end
        if self.lost or self._size > MAX_TEXT:
            self.lost, self._pending, self._size = True, [], 0
            return
        if not end:
            return
        whole = data[:end]
        self._blank = whole.endswith(b"\n\n") or (whole == b"\n" and bool(self._last))
        try:
            if self.begun and self._batch(whole):
                self._last = whole.rstrip(b"\n").rpartition(b"\n")[2] or self._last
                self._bound()
                return
            for line in whole.split(b"\n"):
                if line:
                    self._last = line
                    self._line(line)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            self.lost = True
        self._bound()

    def _bound(self) -> None:
        if len(self._text) > MAX_TEXT:
            self.lost = True
            self._text = bytearray()

    def _batch(self, whole: bytes) -> bool:
        """Reads whole lines at once where they are the common ones; False: line by line, please.

        Nothing may be noted before all of them are known to be common.
        """
        return False

    def _add_all(self, texts: list[str]) -> None:
        self.tokens += len(texts)
        self._text += "".join(texts).encode()

    def _add(self, text: str) -> None:
        self.tokens += 1
        self._text += text.encode()

    @property
    def lead(self) -> bytes:
        """What has to come before the next record: the end of an event whose own did not come.

        After an `event:` line nothing may: the next event's own name takes its place, while a blank
        line would send an event without data.
        """
        return b"" if self._blank or self._last.startswith(b"event:") else b"\n"

    @abstractmethod
    def _line(self, line: bytes) -> None:
        """Reads one line, which is not empty and has no line end."""

    @abstractmethod
    def more(self, text: str, native: Continued) -> bytes:
        """The record that brings the client more text.

        Args:
            text: What comes after what it has.
            native: The record of `/api/generate` that brought it.
        """

    @abstractmethod
    def end(self, native: Continued, resumed: int) -> bytes:
        """The records that end the stream.

        Args:
            native: The last record of `/api/generate`, its counters summed for the whole stream.
            resumed: How many times the stream was continued.
        """


class EventTracker(Tracker):
    """Reads server-sent events: one data line an event."""

    __slots__ = ()

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._event(line[5:].strip())

    @abstractmethod
    def _event(self, data: bytes) -> None: ...


def mark(resumed: int) -> dict[str, Any]:
    """The key in a stream's last record that says how often it was continued."""
    return {"bridge": {"resumed": resumed}}
