"""Streams of `/v1/responses`: numbered events around one item of output."""

from __future__ import annotations

from typing import Any, Final

from bridge_agent.routing.resume.decoded import (
    Created,
    Item,
    ResponseEvent,
    decode_created,
    decode_item,
    decode_response_event,
)
from bridge_agent.routing.resume.tracker import Continued, EventTracker, mark
from bridge_core.dialects.response_object import part
from bridge_core.dialects.wire import encode_sorted, event, usage

# How far the item of output is, by the last event of it.
_STAGES: Final = {
    "response.in_progress": 0,
    "response.output_item.added": 1,
    "response.content_part.added": 2,
    "response.output_text.done": 3,
    "response.content_part.done": 4,
    "response.output_item.done": 5,
}


class ResponseTracker(EventTracker):
    """A stream of a response's events."""

    __slots__ = ("_first", "_id", "_output", "_sequence", "_stage")

    def __init__(self) -> None:
        super().__init__()
        self._first = b""
        self._sequence = -1
        self._stage = -1
        self._id = ""
        self._output = 0

    def _event(self, data: bytes) -> None:
        read: ResponseEvent = decode_response_event(data)
        self._sequence = max(self._sequence, read.sequence_number)
        kind = read.type
        if kind == "response.output_text.delta":
            if read.delta:
                self._add(read.delta)
        elif kind == "response.created":
            self.begun, self._first = True, data
        elif kind in _STAGES:
            self._stage = _STAGES[kind]
            self._output = read.output_index
            if read.item:
                item: Item = decode_item(read.item)
                self._id = item.id
                self.thinking = self.thinking or item.type == "reasoning"
                self.tools = self.tools or item.type == "function_call"
            self.finished = self._stage >= 3
        elif kind.startswith("response.reasoning"):
            self.thinking = True

    def more(self, text: str, native: Continued) -> bytes:
        """See `Tracker`."""
        return self._up_to_text() + self._write(
            "response.output_text.delta", **self._place(), delta=text, logprobs=[]
        )

    def end(self, native: Continued, resumed: int) -> bytes:
        """See `Tracker`."""
        out = self._up_to_text()
        text, place = self.text, self._place()
        item = self._message("completed", [part(text)])
        if self._stage < 3:
            out += self._write("response.output_text.done", **place, text=text, logprobs=[])
        if self._stage < 4:
            out += self._write("response.content_part.done", **place, part=part(text))
        if self._stage < 5:
            out += self._write("response.output_item.done", output_index=self._output, item=item)
        return out + self._write("response.completed", response=self._response(item, native) | mark(resumed))

    def _up_to_text(self) -> bytes:
        """The events that open the item, where they had not come yet."""
        out = b""
        if self._stage < 0:
            out += self._write("response.in_progress", response=self._object())
        if self._stage < 1:
            self._id = f"msg_{self._object()['id'].removeprefix('resp_')}"
            item = self._message("in_progress", [])
            out += self._write("response.output_item.added", output_index=self._output, item=item)
        if self._stage < 2:
            out += self._write("response.content_part.added", **self._place(), part=part(""))
            self._stage = 2
        return out

    def _object(self) -> dict[str, Any]:
        created: Created = decode_created(self._first)
        return created.response

    def _response(self, item: dict[str, Any], native: Continued) -> dict[str, Any]:
        prompt, answer = usage(native)
        begun = self._object()
        created = begun.get("created_at")
        took = int(native.get("total_duration") or 0) // 1_000_000_000
        return begun | {
            "status": "completed",
            "completed_at": created + took if isinstance(created, int) else None,
            "output": [item],
            "usage": {
                "input_tokens": prompt,
                "output_tokens": answer,
                "total_tokens": prompt + answer,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
        }

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": self._output, "content_index": 0}

    def _write(self, name: str, **fields: Any) -> bytes:
        self._sequence += 1
        return event(name, encode_sorted({"type": name, "sequence_number": self._sequence, **fields}))
