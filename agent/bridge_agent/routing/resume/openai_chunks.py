"""Streams of `/v1/chat/completions` and `/v1/completions`: chunks that all have the same head."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from bridge_agent.routing.resume.decoded import Chunk, decode_chunk, decode_chunks
from bridge_agent.routing.resume.tracker import Continued, EventTracker, mark
from bridge_core.dialects.openai_chat import usage_of
from bridge_core.dialects.wire import data_line

_EMPTY: Final = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


class ChunkTracker(EventTracker):
    """A stream of chunks.

    Args:
        chat: Whether it is `/v1/chat/completions`'.
        usage: Whether the client asked for the token counts at the end.
    """

    __slots__ = ("_chat", "_first", "_usage", "_used")

    def __init__(self, *, chat: bool, usage: bool = False) -> None:
        super().__init__()
        self._chat = chat
        self._usage = usage
        self._used = False
        self._first = b""

    def wants_usage(self, usage: bool) -> None:
        """Says whether the client asked for the token counts, once that was looked up."""
        self._usage = usage

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            return
        if not self.begun:
            self.begun, self._first = True, data
        chunk: Chunk = decode_chunk(data)
        self._used = self._used or (self.finished and not chunk.choices)
        for choice in chunk.choices:
            delta = choice.delta
            if choice.text or (delta is not None and delta.content):
                self._add(choice.text or (delta.content if delta is not None else "") or "")
            if delta is not None:
                self.thinking = self.thinking or bool(delta.reasoning)
                self.tools = self.tools or bool(delta.tool_calls)
            self.finished = self.finished or choice.finish_reason is not None

    def _batch(self, whole: bytes) -> bool:
        # Line ends inside a JSON string are escaped, so these bytes only part two events.
        data = whole.strip(b"\n")
        if not data.startswith(b"data: ") or data.endswith(b"[DONE]"):
            return False
        texts = []
        try:
            chunks: list[Chunk] = decode_chunks(b"[" + data[6:].replace(b"\n\ndata: ", b",") + b"]")
        except msgspec.DecodeError:
            return False  # a comment, or other line ends
        for chunk in chunks:
            if len(chunk.choices) != 1:
                return False
            choice = chunk.choices[0]
            delta = choice.delta
            if delta is None:
                text = choice.text
            elif delta.reasoning or delta.tool_calls:
                return False
            else:
                text = delta.content
            if not text or choice.finish_reason is not None:
                return False
            texts.append(text)
        self._add_all(texts)
        return True

    def more(self, text: str, native: Continued) -> bytes:
        """See `Tracker`."""
        return self._write([self._choice(text, None, native)])

    def end(self, native: Continued, resumed: int) -> bytes:
        """See `Tracker`."""
        reason = native.get("done_reason") or "stop"
        out = b"" if self.finished else self._write([self._choice("", reason, native)], mark(resumed))
        if self._usage and not self._used:
            # Where the chunk that gave the reason had come already, this one carries the mark.
            extra = mark(resumed) if self.finished else {}
            out += self._write([], {"usage": usage_of(native)} | extra)
        return out + b"data: [DONE]\n\n"

    def _choice(self, text: str, reason: str | None, native: Continued) -> dict[str, Any]:
        logprobs = {"logprobs": {"content": native["logprobs"]}} if native.get("logprobs") else {}
        if self._chat:
            delta = {"content": text} if reason is None else {}
            return {"index": 0, "delta": delta, "finish_reason": reason} | logprobs
        return {"text": text, "index": 0, "finish_reason": reason} | logprobs

    def _write(self, choices: list[dict[str, Any]], extra: dict[str, Any] | None = None) -> bytes:
        head = msgspec.json.decode(self._first)
        if self._usage and "usage" in head:
            head["usage"] = _EMPTY
        return data_line(head | {"choices": choices} | (extra or {}))
