"""The named events of a streamed Anthropic message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge_core.dialects.anthropic_wire import error_body, stop_reason
from bridge_core.dialects.wire import Stamp, Stream, encode, event, usage


class MessageStream(Stream):
    """message_start, blocks one after the other, message_delta, message_stop.

    One block is open at a time: thinking, text or a tool's use; another kind of text closes it.
    """

    def __init__(self, request: Mapping[str, Any], stamp: Stamp) -> None:
        """Starts the translation of the answer to a native request."""
        super().__init__()
        self._request = request
        self._stamp = stamp
        self._begun = False
        self._open = ""  # kind of the block that is open
        self._index = -1
        self._calls = 0

    def _translate(self, native: Mapping[str, Any]) -> bytes:
        message = native.get("message") or {}
        out = b"" if self._begun else self._start(native)
        if message.get("thinking"):
            out += self._text("thinking", str(message["thinking"]))
        if message.get("content"):
            out += self._text("text", str(message["content"]))
        for call in message.get("tool_calls") or ():
            out += self._call(call)
        return out + self._end(native) if native.get("done") else out

    def _start(self, native: Mapping[str, Any]) -> bytes:
        self._begun = True
        message = {
            "id": f"msg_{self._stamp.hex(0)}",
            "type": "message",
            "role": "assistant",
            "model": native.get("model") or self._request["model"],
            "content": [],
            "usage": {"input_tokens": estimate(self._request), "output_tokens": 0},
        }
        return _event("message_start", message=message)

    def _text(self, kind: str, text: str) -> bytes:
        out = b""
        if self._open != kind:
            out += self._close()
            out += self._begin(kind, {"type": kind, kind: ""})
        delta = {"type": f"{kind}_delta", kind: text}
        return out + _event("content_block_delta", index=self._index, delta=delta)

    def _call(self, call: Mapping[str, Any]) -> bytes:
        function = call.get("function") or {}
        identity = call.get("id") or f"toolu_{self._stamp.hex(1, 20)}{self._calls}"
        self._calls += 1
        block = {"type": "tool_use", "id": identity, "name": function.get("name", ""), "input": {}}
        delta = {"type": "input_json_delta", "partial_json": encode(function.get("arguments") or {}).decode()}
        out = self._close() + self._begin("tool_use", block)
        return out + _event("content_block_delta", index=self._index, delta=delta) + self._close()

    def _begin(self, kind: str, block: Mapping[str, Any]) -> bytes:
        self._open = kind
        self._index += 1
        return _event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return _event("content_block_stop", index=self._index)

    def _end(self, native: Mapping[str, Any]) -> bytes:
        prompt, answer = usage(native)
        delta = {"stop_reason": stop_reason(native, called=self._calls > 0)}
        counts = {"input_tokens": prompt, "output_tokens": answer}
        return self._close() + _event("message_delta", delta=delta, usage=counts) + _event("message_stop")

    def _failure(self, status: int, message: str) -> bytes:
        return event("error", encode(error_body(status, message)))


def estimate(request: Mapping[str, Any]) -> int:
    """Tokens of the prompt before anybody has counted them: a quarter of its characters."""
    messages = request.get("messages") or ()
    return sum(len(str(one.get("role", ""))) + len(str(one.get("content", ""))) for one in messages) // 4


def _event(name: str, **fields: Any) -> bytes:
    return event(name, encode({"type": name, **fields}))
