"""Streams of `/api/generate` and `/api/chat`: a record a line."""

from __future__ import annotations

from typing import Any, Final

from bridge_agent.routing.resume.decoded import Record, decode_record, decode_records
from bridge_agent.routing.resume.tracker import Continued, Tracker, mark
from bridge_core.dialects.wire import encode

_NEVER_PASSED: Final = ("model", "created_at", "response", "thinking", "done", "context")


class NativeTracker(Tracker):
    """A stream of Ollama's own API.

    Args:
        chat: Whether it is `/api/chat`'s.
    """

    __slots__ = ("_chat", "_model")

    def __init__(self, *, chat: bool) -> None:
        super().__init__()
        self._chat = chat
        self._model = ""

    @property
    def lead(self) -> bytes:
        """See `Tracker`: every line is a record of its own."""
        return b""

    def _line(self, line: bytes) -> None:
        record: Record = decode_record(line)
        said = record.message or record
        text = record.message.content if record.message is not None else record.response
        if text:
            self._add(text)
        if said.thinking:
            self.thinking = True
        if said.tool_calls:
            self.tools = True
        if not self.begun:
            self.begun, self._model = True, record.model

    def _batch(self, whole: bytes) -> bool:
        texts = []
        for record in decode_records(whole):
            said = record.message or record
            text = record.response if record.message is None else record.message.content
            if not text or said.thinking or said.tool_calls:
                return False
            texts.append(text)
        self._add_all(texts)
        return True

    def more(self, text: str, native: Continued) -> bytes:
        """See `Tracker`."""
        record = self._head(text, native) | {"done": False}
        if native.get("logprobs"):
            record["logprobs"] = native["logprobs"]
        return encode(record) + b"\n"

    def end(self, native: Continued, resumed: int) -> bytes:
        """See `Tracker`."""
        counters = {key: value for key, value in native.items() if key not in _NEVER_PASSED}
        return encode(self._head("", native) | {"done": True} | counters | mark(resumed)) + b"\n"

    def _head(self, text: str, native: Continued) -> dict[str, Any]:
        head = {"model": self._model, "created_at": native.get("created_at", "")}
        if self._chat:
            return head | {"message": {"role": "assistant", "content": text}}
        return head | {"response": text}
