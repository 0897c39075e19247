"""The items of a request to `/v1/responses` as the messages of a chat.

Rules:
1. A call joins the assistant's message before it, so that calls in a row, and text before a call, stay
   in one turn: templates write a turn's calls only where it ends.
2. An assistant's text between a call and that call's output joins the call's message.
3. Reasoning goes into the assistant's message or call that follows it; with none, it stands alone.
4. A `web_search_call` was answered by the message after it: it adds nothing.
5. What is not understood is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bridge_core.dialects import openai_common as common
from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import decode_value, string_of
from bridge_core.dialects.values import as_list, as_map

Message = dict[str, Any]
_ROLES = {"developer": "system"}


def input_messages(given: Any) -> list[Message]:
    """The messages of an `input`.

    Raises:
        ApiError: 400; it is neither a text nor items, or an item is not understood.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise ApiError(400, "input must be a string or an array of items")
    reader = _Items(given)
    for number, item in enumerate(given):
        if not isinstance(item, Mapping):
            raise ApiError(400, f"input[{number}]: items must be objects")
        try:
            reader.add(number, item)
        except ApiError as fault:
            raise ApiError(fault.status, f"input[{number}]: {fault.message}") from fault
    return reader.finished()


class _Items:
    def __init__(self, items: list[Any]) -> None:
        self._items = items
        self._messages: list[Message] = []
        self._called: dict[str, str] = {}  # names of tools by the id of their call
        self._thinking = ""

    def finished(self) -> list[Message]:
        if self._thinking:
            self._messages.append({"role": "assistant", "content": "", "thinking": self._thinking})
        return self._messages

    def add(self, number: int, item: Mapping[str, Any]) -> None:
        kind = string_of(item, "type", "item") or ("message" if item.get("role") else "")
        if kind == "message":
            self._message(number, item)
        elif kind == "function_call":
            self._call(item)
        elif kind == "function_call_output":
            self._output(item)
        elif kind == "reasoning":
            summary = "".join(
                string_of(as_map(part), "text", "summary") for part in as_list(item.get("summary"))
            )
            self._thinking += summary or string_of(item, "encrypted_content", "reasoning")
        elif not kind:
            raise ApiError(400, "input item missing required 'type' field")
        elif kind != "web_search_call":
            raise ApiError(400, f"unknown input item type: {json.dumps(kind)[:100]}")

    def _message(self, number: int, item: Mapping[str, Any]) -> None:
        role = string_of(item, "role", "message").lower()
        message: Message = {"role": _ROLES.get(role, role), **_content(item.get("content"), "content")}
        if role != "assistant":
            self._messages.append(message)
            return
        self._think(message)
        answered = self._answered_next(number)
        if answered is None:
            self._messages.append(message)
            return
        joined = "\n".join(text for text in (answered["content"], message["content"]) if text)
        answered["content"] = joined
        if message.get("images"):
            answered["images"] = [*answered.get("images", ()), *message["images"]]
        if message.get("thinking"):
            answered["thinking"] = message["thinking"]

    def _answered_next(self, number: int) -> Message | None:
        """The message before, where it has the call that the next item answers."""
        following = as_map(self._items[number + 1]) if number + 1 < len(self._items) else {}
        if following.get("type") != "function_call_output" or not self._messages:
            return None
        before = self._messages[-1]
        ids = [call["id"] for call in before.get("tool_calls", ())]
        return before if following.get("call_id") in ids else None

    def _call(self, item: Mapping[str, Any]) -> None:
        identity, name = (string_of(item, key, "function_call") for key in ("call_id", "name"))
        self._called[identity] = name
        text = string_of(item, "arguments", "function_call")
        problem = "failed to parse function call arguments: they are no JSON object"
        arguments = decode_value(text or "{}", problem)
        if not isinstance(arguments, dict | None):
            raise ApiError(400, problem)
        if not self._messages or self._messages[-1]["role"] != "assistant":
            self._messages.append({"role": "assistant", "content": ""})
        message = self._messages[-1]
        self._think(message)
        calls = message.setdefault("tool_calls", [])
        function = {"index": len(calls), "name": name, "arguments": arguments or {}}
        calls.append({"id": identity, "function": function})

    def _output(self, item: Mapping[str, Any]) -> None:
        identity = string_of(item, "call_id", "function_call_output")
        message: Message = {
            "role": "tool",
            **_content(item.get("output"), "output"),
            "tool_call_id": identity,
        }
        if identity in self._called:
            message["tool_name"] = self._called[identity]
        self._messages.append(message)

    def _think(self, message: Message) -> None:
        if self._thinking:
            message["thinking"], self._thinking = self._thinking, ""


def _content(content: Any, what: str) -> Message:
    if content is None or isinstance(content, str):
        return {"content": content or ""}
    if not isinstance(content, list):
        raise ApiError(400, f"{what} must be a string or array")
    text, images = "", []
    for number, part in enumerate(content):
        kind = string_of(as_map(part), "type", what)
        if kind in {"input_text", "output_text"}:
            text += string_of(part, "text", kind)
        elif kind == "input_image" and part.get("image_url"):
            images.append(common.image(part["image_url"]))
        elif kind == "input_image":
            raise ApiError(
                400, f"{what}[{number}]: an input_image needs an image_url (file_id is not supported)"
            )
        elif kind == "input_file":
            raise ApiError(400, f"{what}[{number}]: file inputs are not currently supported")
        else:
            raise ApiError(400, f"{what}[{number}]: unknown content type: {json.dumps(kind)[:100]}")
    return {"content": text} | ({"images": images} if images else {})
