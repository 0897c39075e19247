"""The response object of `/v1/responses`, and the items of its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bridge_core.dialects.values import as_map
from bridge_core.dialects.wire import Stamp, encode, usage


class Items:
    """Makes items of an output, each with an id of its own."""

    def __init__(self, stamp: Stamp) -> None:
        """Ids are made from the stamp."""
        self._stamp = stamp
        self.message_id = f"msg_{stamp.number(1, 1_000_000)}"
        self.reasoning_id = f"rs_{stamp.number(2, 1_000_000)}"

    def message(self, text: str, status: str = "completed") -> dict[str, Any]:
        """An assistant's message; without content while it is in progress."""
        parts = [part(text)] if status == "completed" else []
        return {
            "id": self.message_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": parts,
        }

    def reasoning(self, text: str) -> dict[str, Any]:
        """What the model thought; nothing while it is in progress.

        Clients that keep no summaries send `encrypted_content` back, which Ollama does not encrypt either.
        """
        item: dict[str, Any] = {"id": self.reasoning_id, "type": "reasoning", "summary": []}
        if text:
            item |= {"summary": [{"type": "summary_text", "text": text}], "encrypted_content": text}
        return item

    def call(self, call: Mapping[str, Any], index: int, status: str = "completed") -> dict[str, Any]:
        """A call of a tool; without arguments while it is in progress."""
        function = call.get("function") or {}
        arguments = encode(function.get("arguments") or {}).decode() if status == "completed" else ""
        return {
            "id": f"fc_{self._stamp.number(3, 1_000_000)}{index}",
            "type": "function_call",
            "status": status,
            "call_id": call.get("id") or f"call_{self._stamp.hex(3, 7)}{index}",
            "name": function.get("name", ""),
            "arguments": arguments,
        }


def part(text: str) -> dict[str, Any]:
    """A part of a message's content."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class ResponseObject:
    """The response to one request, in each of its states."""

    def __init__(self, request: Mapping[str, Any], stamp: Stamp) -> None:
        """Repeats what the request asked for, with OpenAI's defaults."""
        self.stamp = stamp
        self._request = request
        self._id = f"resp_{stamp.number(0, 1_000_000)}"

    def in_progress(self) -> dict[str, Any]:
        """Before there is an output."""
        return self._object("in_progress", None, [], None, None)

    def completed(self, native: Mapping[str, Any], output: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """After the last native record."""
        prompt, answer = usage(native)
        counts = {
            "input_tokens": prompt,
            "output_tokens": answer,
            "total_tokens": prompt + answer,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        moment = self.stamp.created + int(native.get("total_duration") or 0) // 1_000_000_000
        return self._object("completed", moment, output, counts, None)

    def failed(self, message: str, output: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """After a failure."""
        return self._object("failed", None, output, None, {"code": "server_error", "message": message})

    def _object(
        self,
        status: str,
        completed_at: int | None,
        output: Sequence[Mapping[str, Any]],
        counts: Mapping[str, Any] | None,
        error: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        request = self._request
        return {
            "id": self._id,
            "object": "response",
            "created_at": self.stamp.created,
            "completed_at": completed_at,
            "status": status,
            "incomplete_details": None,
            "model": request.get("model", ""),
            "previous_response_id": None,
            "instructions": request.get("instructions"),
            "output": output,
            "error": error,
            "tools": request.get("tools") or [],
            "tool_choice": request.get("tool_choice", "auto"),
            "truncation": request.get("truncation", "disabled"),
            "parallel_tool_calls": request.get("parallel_tool_calls", True),
            "text": {"format": as_map(request.get("text")).get("format") or {"type": "text"}},
            "top_p": request.get("top_p", 1),
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "top_logprobs": 0,
            "temperature": request.get("temperature", 1),
            "reasoning": request.get("reasoning"),
            "usage": counts,
            "max_output_tokens": request.get("max_output_tokens"),
            "max_tool_calls": None,
            "store": False,
            "background": False,
            "service_tier": "default",
            "metadata": request.get("metadata") or {},
            "safety_identifier": None,
            "prompt_cache_key": None,
        }
