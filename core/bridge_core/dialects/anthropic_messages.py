"""Anthropic's `/v1/messages` by way of `/api/chat`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bridge_core.dialects.anthropic_input import input_messages, system_messages
from bridge_core.dialects.anthropic_stream import MessageStream
from bridge_core.dialects.anthropic_wire import error_body, stop_reason
from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import ANY, BOOL, FLOAT64, INT, MAP, STRING, STRINGS, ListOf, Struct, decode
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
        "output_config": Struct(
            "OutputConfig", {"effort": STRING, "format": MAP}, go="anthropic.OutputConfig"
        ),
        "keep_alive": ANY,
    },
)
_EFFORTS: Final = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}


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
            "messages": [*system_messages(request.get("system")), *input_messages(request["messages"])],
            "stream": request.get("stream", False),
            "options": _options(request),
        }
        # Web search would run on the server, which has none: it is not on offer.
        tools = [
            one for one in request.get("tools") or () if not one.get("type", "").startswith("web_search")
        ]
        if tools:
            self.native["tools"] = [_tool(tool) for tool in tools]
        output = request.get("output_config") or {}
        self.native |= _think(request.get("thinking") or {}, output)
        if output.get("format"):
            self.native["format"] = _format(output["format"])
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


def _think(thinking: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
    """What the request says of thinking. Agents ask every model to think; those that cannot answer without.

    So "enabled" is left to the model, which thinks by default where it can.
    """
    kind = thinking.get("type")
    effort = output.get("effort", "").strip().lower()
    if kind == "disabled":
        return {"think": False}
    if kind == "enabled" or effort not in _EFFORTS:
        return {}
    return {"think": _EFFORTS[effort], "_relax_thinking": True}


def _format(wanted: Mapping[str, Any]) -> Any:
    if wanted.get("type") != "json_schema" or not isinstance(wanted.get("schema"), Mapping):
        raise ApiError(400, "output_config.format must be a json_schema with a schema")
    return wanted["schema"]


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.get("name", "")}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": {**function, "parameters": tool.get("input_schema") or {}}}
