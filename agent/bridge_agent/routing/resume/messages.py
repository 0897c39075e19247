"""Streams of `/v1/messages`: blocks in a message, each opened and closed by an event."""

from __future__ import annotations

from typing import Any

from bridge_agent.routing.resume.decoded import MessageEvent, decode_message_event
from bridge_agent.routing.resume.tracker import Continued, EventTracker, mark
from bridge_core.dialects.anthropic_wire import stop_reason
from bridge_core.dialects.wire import encode, event, usage


class MessageTracker(EventTracker):
    """A stream of a message's events."""

    __slots__ = ("_index", "_open", "_reasoned")

    def __init__(self) -> None:
        super().__init__()
        self._index = -1
        self._open = False
        self._reasoned = False

    def _event(self, data: bytes) -> None:
        read: MessageEvent = decode_message_event(data)
        if read.type == "content_block_delta":
            if read.delta is not None and read.delta.text:
                self._add(read.delta.text)
        elif read.type == "message_start":
            self.begun = True
        elif read.type == "content_block_start":
            kind = "" if read.content_block is None else read.content_block.type
            self.thinking = self.thinking or kind == "thinking"
            self.tools = self.tools or kind == "tool_use"
            self._index, self._open = read.index, True
        elif read.type == "content_block_stop":
            self._open, self.finished = False, True
        elif read.type == "message_delta":
            self._reasoned = self.finished = True

    def more(self, text: str, native: Continued) -> bytes:
        """See `Tracker`."""
        out = b""
        if not self._open:
            self._index, self._open = self._index + 1, True
            block = {"type": "text", "text": ""}
            out = _write("content_block_start", index=self._index, content_block=block)
        delta = {"type": "text_delta", "text": text}
        return out + _write("content_block_delta", index=self._index, delta=delta)

    def end(self, native: Continued, resumed: int) -> bytes:
        """See `Tracker`."""
        out = _write("content_block_stop", index=self._index) if self._open else b""
        if not self._reasoned:
            prompt, answer = usage(native)
            out += _write(
                "message_delta",
                delta={"stop_reason": stop_reason(native, called=False)},
                usage={"input_tokens": prompt, "output_tokens": answer},
                **mark(resumed),
            )
        return out + _write("message_stop", **(mark(resumed) if self._reasoned else {}))


def _write(name: str, **fields: Any) -> bytes:
    return event(name, encode({"type": name, **fields}))
