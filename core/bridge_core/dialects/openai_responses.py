"""`/v1/responses` by way of `/api/chat`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bridge_core.dialects import openai_common as common
from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import ANY, BOOL, FLOAT64, INT, MAP, STRING, ListOf, Struct, decode
from bridge_core.dialects.openai_responses_stream import ResponseStream
from bridge_core.dialects.response_object import Items, ResponseObject
from bridge_core.dialects.values import as_list, as_map
from bridge_core.dialects.wire import Reply, Stamp, Stream, Translation, whole

_REQUEST: Final = Struct(
    "ResponsesRequest",
    {
        "model": STRING,
        "input": ANY,
        "instructions": STRING,
        "max_output_tokens": INT,
        "temperature": FLOAT64,
        "top_p": FLOAT64,
        "stream": BOOL,
        "tools": ListOf("[]openai.ResponsesTool", MAP),
        "tool_choice": ANY,
        "reasoning": MAP,
        "text": MAP,
        "truncation": STRING,
        "parallel_tool_calls": BOOL,
        "metadata": MAP,
        "keep_alive": ANY,
    },
)


class Responses(Translation):
    """One request for a response."""

    path = "/api/chat"
    stream_headers = ((b"Cache-Control", b"no-cache"), (b"Content-Type", b"text/event-stream"))

    def __init__(self, body: bytes, stamp: Stamp) -> None:
        """Reads the request.

        Raises:
            ApiError: It cannot be translated.
        """
        request = decode(body, _REQUEST)
        self.native = {
            "model": request.get("model", ""),
            "messages": _messages(request),
            "stream": request.get("stream", False),
            "options": {
                "temperature": request.get("temperature", 1.0),
                "top_p": request.get("top_p", 1.0),
            },
        }
        if "max_output_tokens" in request:
            self.native["options"]["num_predict"] = request["max_output_tokens"]
        tools = [_tool(tool) for tool in request.get("tools") or () if tool.get("type") == "function"]
        if tools:
            self.native["tools"] = tools
        wanted = as_map(as_map(request.get("text")).get("format"))
        if wanted.get("type") == "json_schema":
            self.native["format"] = wanted.get("schema")
        elif wanted.get("type") == "json_object":
            self.native["format"] = "json"
        think = common.think(str(as_map(request.get("reasoning")).get("effort") or ""))
        if think is not None:
            self.native["think"] = think
        if "keep_alive" in request:
            self.native["keep_alive"] = request["keep_alive"]
        self._object = ResponseObject(request, stamp)

    def whole(self, native: Mapping[str, Any]) -> Reply:
        """See Exchange."""
        message = native.get("message") or {}
        items = Items(self._object.stamp)
        output = []
        if message.get("thinking"):
            output.append(items.reasoning(str(message["thinking"])))
        if message.get("content") or not message.get("tool_calls"):
            output.append(items.message(str(message.get("content") or "")))
        output += [items.call(call, index) for index, call in enumerate(message.get("tool_calls") or ())]
        return whole(self._object.completed(native, output))

    def stream(self) -> Stream:
        """See Exchange."""
        return ResponseStream(self._object)

    def failure(self, status: int, message: str) -> Reply:
        """See Exchange."""
        return common.failure(status, message)


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": tool.get("name") or "", "parameters": as_map(tool.get("parameters"))}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _messages(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if request.get("instructions"):
        found.append({"role": "system", "content": request["instructions"]})
    items = request.get("input")
    if isinstance(items, str):
        return [*found, {"role": "user", "content": items}]
    if not isinstance(items, list):
        raise ApiError(400, "input must be a string or an array of items")
    called: dict[str, str] = {}
    thinking = ""
    for item in items:
        if not isinstance(item, Mapping):
            raise ApiError(400, "input items must be objects")
        kind = item.get("type") or ("message" if "role" in item else "")
        if kind == "reasoning":
            thinking += _texts(item.get("summary"))
            continue
        message = _item(kind, item, called)
        if thinking and message["role"] == "assistant":
            message["thinking"], thinking = thinking, ""
        found.append(message)
    return found


def _item(kind: str, item: Mapping[str, Any], called: dict[str, str]) -> dict[str, Any]:
    if kind == "message":
        role = str(item.get("role") or "user")
        return {"role": "system" if role == "developer" else role, **_content(item.get("content"))}
    if kind == "function_call":
        identity, name = str(item.get("call_id") or ""), str(item.get("name") or "")
        called[identity] = name
        function = {"index": 0, "name": name, "arguments": common.arguments(item.get("arguments"))}
        return {"role": "assistant", "content": "", "tool_calls": [{"id": identity, "function": function}]}
    if kind == "function_call_output":
        identity = str(item.get("call_id") or "")
        output = item.get("output")
        text = output if isinstance(output, str) else _texts(output)
        result = {"role": "tool", "content": text, "tool_call_id": identity}
        return result | {"tool_name": called[identity]} if identity in called else result
    raise ApiError(400, f"unknown input item type: {kind}")


def _content(content: Any) -> dict[str, Any]:
    if isinstance(content, str):
        return {"content": content}
    parts = [as_map(part) for part in as_list(content)]
    images = [common.image(part.get("image_url")) for part in parts if part.get("type") == "input_image"]
    found: dict[str, Any] = {"content": _texts(parts)}
    return found | {"images": images} if images else found


def _texts(parts: Any) -> str:
    return "".join(str(as_map(part).get("text") or "") for part in as_list(parts))
