"""Anthropic's `/v1/messages` by way of `/api/chat`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bridge_core.dialects.anthropic_stream import MessageStream
from bridge_core.dialects.anthropic_wire import error_body, stop_reason
from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import ANY, BOOL, FLOAT64, INT, MAP, STRING, STRINGS, ListOf, Struct, decode
from bridge_core.dialects.values import as_list, as_map
from bridge_core.dialects.wire import Reply, Stamp, Stream, Translation, encode, usage, whole

_MESSAGE: Final = Struct("MessageParam", {"role": STRING, "content": ANY}, go="anthropic.MessageParam")
_TOOL: Final = Struct(
    "Tool",
    {"type": STRING, "name": STRING, "description": STRING, "input_schema": MAP},
    go="anthropic.Tool",
)
_THINKING: Final = Struct(
    "ThinkingConfig", {"type": STRING, "budget_tokens": INT}, go="anthropic.ThinkingConfig"
)
_REQUEST: Final = Struct(
    "MessagesRequest",
    {
        "model": STRING,
        "max_tokens": INT,
        "messages": ListOf("[]anthropic.MessageParam", _MESSAGE),
        "system": ANY,
        "stream": BOOL,
        "temperature": FLOAT64,
        "top_p": FLOAT64,
        "top_k": INT,
        "stop_sequences": STRINGS,
        "tools": ListOf("[]anthropic.Tool", _TOOL),
        "thinking": _THINKING,
        "keep_alive": ANY,
    },
)


class Messages(Translation):
    """One request for a message."""

    path = "/api/chat"
    stream_headers = ((b"Cache-Control", b"no-cache"), (b"Content-Type", b"text/event-stream"))

    def __init__(self, body: bytes, stamp: Stamp) -> None:
        """Reads the request.

        Raises:
            ApiError: It cannot be translated.
        """
        request = decode(body, _REQUEST)
        if not request.get("model"):
            raise ApiError(400, "model is required")
        if request.get("max_tokens", 0) <= 0:
            raise ApiError(400, "max_tokens is required and must be positive")
        if not request.get("messages"):
            raise ApiError(400, "messages is required")
        self._stamp = stamp
        self.native = {
            "model": request["model"],
            "messages": [*_system(request.get("system")), *_messages(request["messages"])],
            "stream": request.get("stream", False),
            "options": _options(request),
        }
        if request.get("tools"):
            self.native["tools"] = [_tool(tool) for tool in request["tools"]]
        if (request.get("thinking") or {}).get("type") == "enabled":
            self.native["think"] = True
        if "keep_alive" in request:
            self.native["keep_alive"] = request["keep_alive"]

    def whole(self, native: Mapping[str, Any]) -> Reply:
        """See Exchange."""
        message = native.get("message") or {}
        content: list[dict[str, Any]] = []
        if message.get("thinking"):
            content.append({"type": "thinking", "thinking": message["thinking"]})
        if message.get("content"):
            content.append({"type": "text", "text": message["content"]})
        calls = message.get("tool_calls") or ()
        for index, call in enumerate(calls):
            function = call.get("function") or {}
            content.append(
                {
                    "type": "tool_use",
                    "id": call.get("id") or f"toolu_{self._stamp.hex(1, 20)}{index}",
                    "name": function.get("name", ""),
                    "input": function.get("arguments") or {},
                }
            )
        prompt, answer = usage(native)
        return whole(
            {
                "id": f"msg_{self._stamp.hex(0)}",
                "type": "message",
                "role": "assistant",
                "model": native.get("model") or self.native["model"],
                "content": content,
                "stop_reason": stop_reason(native, called=bool(calls)),
                "usage": {"input_tokens": prompt, "output_tokens": answer},
            }
        )

    def stream(self) -> Stream:
        """See Exchange."""
        return MessageStream(self.native, self._stamp)

    def failure(self, status: int, message: str) -> Reply:
        """See Exchange."""
        body = encode(error_body(status, message, self._stamp.hex(0)))
        return Reply(status, "application/json", body + b"\n")


def refusal(status: int, message: str, stamp: Stamp) -> Reply:
    """The answer to a request that could not be translated."""
    body = encode(error_body(status, message, stamp.hex(0)))
    return Reply(status, "application/json; charset=utf-8", body)


def _options(request: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"num_predict": request["max_tokens"]}
    found |= {name: request[name] for name in ("temperature", "top_p", "top_k") if name in request}
    if request.get("stop_sequences"):
        found["stop"] = request["stop_sequences"]
    return found


def _system(system: Any) -> list[dict[str, Any]]:
    if isinstance(system, list):
        blocks = [as_map(block) for block in system]
        system = "\n".join(str(block.get("text") or "") for block in blocks if block.get("type") == "text")
    return [{"role": "system", "content": system}] if isinstance(system, str) and system else []


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.get("name", "")}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": {**function, "parameters": tool.get("input_schema") or {}}}


def _messages(messages: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    called: dict[str, str] = {}  # names of tools by the id of their call: results give only the id
    for message in messages:
        found += _message(str(message.get("role", "")).lower(), message.get("content"), called)
    return found


def _message(role: str, content: Any, called: dict[str, str]) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise ApiError(400, "invalid message content type")
    native: dict[str, Any] = {"role": role, "content": ""}
    results: list[dict[str, Any]] = []
    for block in content:
        if not isinstance(block, Mapping):
            raise ApiError(400, "invalid content block format")
        _block(block, native, results, called)
    # Results answer the assistant's calls, so they stand before what the user adds to them.
    return [*results, native] if len(native) > 2 or native["content"] else results


def _block(
    block: Mapping[str, Any], native: dict[str, Any], results: list[dict[str, Any]], called: dict[str, str]
) -> None:
    kind = block.get("type")
    if kind == "text":
        native["content"] += str(block.get("text") or "")
    elif kind == "image":
        native.setdefault("images", []).append(_image(block.get("source")))
    elif kind == "thinking":
        native["thinking"] = native.get("thinking", "") + str(block.get("thinking") or "")
    elif kind == "tool_use":
        if not block.get("id"):
            raise ApiError(400, "tool_use block missing required 'id' field")
        if not block.get("name"):
            raise ApiError(400, "tool_use block missing required 'name' field")
        called[str(block["id"])] = str(block["name"])
        calls = native.setdefault("tool_calls", [])
        function = {"index": len(calls), "name": str(block["name"]), "arguments": as_map(block.get("input"))}
        calls.append({"id": str(block["id"]), "function": function})
    elif kind == "tool_result":
        identity = str(block.get("tool_use_id") or "")
        result = {"role": "tool", "content": _result_text(block.get("content")), "tool_call_id": identity}
        if identity in called:
            result["tool_name"] = called[identity]
        results.append(result)


def _image(source: Any) -> str:
    if not isinstance(source, Mapping):
        raise ApiError(400, "invalid image source")
    if source.get("type") != "base64":
        raise ApiError(
            400, f"invalid image source type: {source.get('type')}. Only base64 images are supported."
        )
    return str(source.get("data") or "")


def _result_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = [as_map(block) for block in as_list(content)]
    return "".join(str(block.get("text") or "") for block in blocks if block.get("type") == "text")
