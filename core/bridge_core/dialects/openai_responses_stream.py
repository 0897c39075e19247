"""The named events of a streamed response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge_core.dialects import openai_common as common
from bridge_core.dialects.response_object import Items, ResponseObject, part
from bridge_core.dialects.wire import Stream, encode, encode_sorted, event


class ResponseStream(Stream):
    """response.created, the items one after the other, response.completed.

    One item is open at a time: reasoning or a message; another kind of text closes it.
    """

    def __init__(self, response: ResponseObject) -> None:
        """Starts the translation of the answer to one request."""
        super().__init__()
        self._response = response
        self._items = Items(response.stamp)
        self._sequence = 0
        self._open = ""  # "reasoning" or "message"
        self._text = ""  # of the open item
        self._output: list[dict[str, Any]] = []
        self._begun = False

    def _translate(self, native: Mapping[str, Any]) -> bytes:
        message = native.get("message") or {}
        out = b"" if self._begun else self._start()
        if message.get("thinking"):
            out += self._add("reasoning", str(message["thinking"]))
        if message.get("content"):
            out += self._add("message", str(message["content"]))
        for call in message.get("tool_calls") or ():
            out += self._call(call)
        return out + self._end(native) if native.get("done") else out

    def _start(self) -> bytes:
        self._begun = True
        response = self._response.in_progress()
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _add(self, kind: str, text: str) -> bytes:
        out = b"" if self._open == kind else self._close() + self._begin(kind)
        self._text += text
        if kind == "reasoning":
            return out + self._event(
                "response.reasoning_summary_text.delta", **self._place("summary_index"), delta=text
            )
        return out + self._event(
            "response.output_text.delta", **self._place("content_index"), delta=text, logprobs=[]
        )

    def _begin(self, kind: str) -> bytes:
        self._open, self._text = kind, ""
        if kind == "reasoning":
            return self._event(
                "response.output_item.added", output_index=len(self._output), item=self._items.reasoning("")
            )
        added = self._event(
            "response.output_item.added",
            output_index=len(self._output),
            item=self._items.message("", "in_progress"),
        )
        return added + self._event(
            "response.content_part.added", **self._place("content_index"), part=part("")
        )

    def _place(self, index: str) -> dict[str, Any]:
        identity = self._items.reasoning_id if self._open == "reasoning" else self._items.message_id
        return {"item_id": identity, "output_index": len(self._output), index: 0}

    def _close(self) -> bytes:
        if not self._open:
            return b""
        if self._open == "reasoning":
            item = self._items.reasoning(self._text)
            out = self._event(
                "response.reasoning_summary_text.done", **self._place("summary_index"), text=self._text
            )
        else:
            item = self._items.message(self._text)
            place = self._place("content_index")
            out = self._event("response.output_text.done", **place, text=self._text, logprobs=[])
            out += self._event("response.content_part.done", **place, part=part(self._text))
        out += self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open = ""
        return out

    def _call(self, call: Mapping[str, Any]) -> bytes:
        out = self._close()
        place = len(self._output)
        item = self._items.call(call, place)
        begun = self._items.call(call, place, "in_progress")
        where = {"item_id": item["id"], "output_index": place}
        out += self._event("response.output_item.added", output_index=place, item=begun)
        out += self._event("response.function_call_arguments.delta", **where, delta=item["arguments"])
        out += self._event("response.function_call_arguments.done", **where, arguments=item["arguments"])
        out += self._event("response.output_item.done", output_index=place, item=item)
        self._output.append(item)
        return out

    def _end(self, native: Mapping[str, Any]) -> bytes:
        out = b""
        if not self._open and not self._output:
            out += self._begin("message")
        out += self._close()
        return out + self._event(
            "response.completed", response=self._response.completed(native, self._output)
        )

    def _failure(self, status: int, message: str) -> bytes:
        # `error` makes OpenAI's own client raise; the other fields are the event's documented ones.
        fields = {"code": "server_error", "message": message, "param": None, **common.error(status, message)}
        failed = self._event("response.failed", response=self._response.failed(message, self._output))
        return failed + event("error", encode({"type": "error", "sequence_number": self._sequence, **fields}))

    def _event(self, name: str, **fields: Any) -> bytes:
        data = encode_sorted({"type": name, "sequence_number": self._sequence, **fields})
        self._sequence += 1
        return event(name, data)
