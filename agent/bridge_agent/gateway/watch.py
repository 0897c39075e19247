"""Whether a streamed answer ended as its protocol says it must.

Rules:
1. A stream is complete when its last record is its framing's terminal one. Engines end silently
   under 200 when a runner dies, so the end of the body alone proves nothing.
2. A last record that is the engine's own error is a failure that the client has been told.
3. Anything else is a truncated stream: the client must be told in the protocol's own shape.

Only the last lines are kept: one look at a chunk's ends, whatever the text says.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

import msgspec

from bridge_agent.gateway.routes import Framing

_LONGEST_LINE: Final = 17 << 20  # more than any that is passed on
_decode: Final = msgspec.json.decode


class StreamVerdict(Enum):
    """How a stream ended."""

    COMPLETE = "complete"
    ENGINE_ERROR = "engine_error"
    TRUNCATED = "truncated"


class StreamWatch:
    """Follows one stream's bytes; `verdict` says how it ended."""

    __slots__ = ("_framing", "_fresh", "_tail")

    def __init__(self, framing: Framing) -> None:
        self._framing = framing
        self._tail = b""
        self._fresh = True  # the next byte begins a line

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the body, in whatever pieces they come."""
        if self._fresh and data[-1:] == b"\n" and data[:1] != b"\n":
            self._tail = data  # whole lines, as nearly always: the last one is looked for at the end
            return
        end = len(data)
        while end and data[end - 1] == 10:  # \n
            end -= 1
        if not end:
            self._fresh = self._fresh or bool(data)
            return
        cut = data.rfind(b"\n", 0, end)
        if cut >= 0:
            self._tail = data[cut + 1 :]
        elif self._fresh:
            self._tail = data
        elif len(self._tail) < _LONGEST_LINE:
            self._tail += data
        self._fresh = end != len(data)

    @property
    def verdict(self) -> StreamVerdict:
        """How the stream ended, if it ended here."""
        return verdict_of(self._framing, self._record)

    @property
    def tokens(self) -> int:
        """Tokens generated, where the last record says; 0 where it does not."""
        last = _object(self._record) or {}
        outer = last.get("response")
        usage = (outer if isinstance(outer, dict) else last).get("usage")
        usage = usage if isinstance(usage, dict) else {}
        found = last.get("eval_count") or usage.get("completion_tokens") or usage.get("output_tokens")
        return found if isinstance(found, int) else 0

    @property
    def next_sequence(self) -> int:
        """The number of the next event in a framing that numbers them."""
        number = (_object(self._record) or {}).get("sequence_number")
        return number + 1 if isinstance(number, int) else 0

    @property
    def _record(self) -> bytes:
        """The last line's value."""
        return self._tail.rstrip().rpartition(b"\n")[2]


def verdict_of(framing: Framing, line: bytes) -> StreamVerdict:
    """How a stream ended whose last line this is."""
    record = line.strip()
    if record.startswith(b"data:"):
        record = record[5:].strip()
    if framing is Framing.CHAT_SSE and record == b"[DONE]":
        return StreamVerdict.COMPLETE
    last = _object(record)
    return StreamVerdict.TRUNCATED if last is None else _judge(framing, last)


def error_at(framing: Framing, data: bytes) -> int:
    """Where the engine's own error begins in whole lines, its event's name included; -1: nowhere."""
    start = 0
    named = 0  # where the event began that the line belongs to
    for line in data.splitlines(keepends=True):
        if not line.startswith(b"data:") and framing is not Framing.NDJSON:
            named = start if line.startswith(b"event:") else start + len(line)
        else:
            last = _object(line)
            if last is not None and _judge(framing, last) is StreamVerdict.ENGINE_ERROR:
                return start if framing is Framing.NDJSON else named
            named = start + len(line)
        start += len(line)
    return -1


def _object(record: bytes) -> dict[str, Any] | None:
    record = record.strip()
    try:
        last = _decode(record[5:] if record.startswith(b"data:") else record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return last if isinstance(last, dict) else None


def _judge(framing: Framing, last: dict[str, Any]) -> StreamVerdict:
    kind = last.get("type")
    if framing is Framing.NDJSON:
        complete = last.get("done") is True
    elif framing is Framing.PROGRESS:
        complete = last.get("status") == "success"
    elif framing is Framing.MESSAGES_SSE:
        complete = kind == "message_stop"
    else:
        complete = framing is Framing.RESPONSES_SSE and kind in (
            "response.completed",
            "response.incomplete",
        )
    if complete:
        return StreamVerdict.COMPLETE
    if kind in ("error", "response.failed") or last.get("error"):
        return StreamVerdict.ENGINE_ERROR
    return StreamVerdict.TRUNCATED
