"""`/v1/responses` by way of `/api/chat`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from bridge_core.dialects import openai_common as common
from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import (
    ANY,
    BOOL,
    FLOAT64,
    INT,
    MAP,
    STRING,
    ListOf,
    Struct,
    decode,
    string_of,
)
from bridge_core.dialects.openai_responses_input import input_messages
from bridge_core.dialects.openai_responses_stream import ResponseStream
from bridge_core.dialects.response_object import Items, ResponseObject
from bridge_core.dialects.values import as_map
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
        "previous_response_id": ANY,
        "conversation": ANY,
        "prompt": ANY,
    },
)
_STATE: Final = ("previous_response_id", "conversation", "prompt")
"""What would bring in text that is not in the request."""


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
            "options": {"temperature": request.get("temperature", 1.0)},
        }
        for name, native in (("top_p", "top_p"), ("max_output_tokens", "num_predict")):
            if name in request:
                self.native["options"][native] = request[name]
        tools = list(_tools(request.get("tools") or ()))
        if tools:
            self.native["tools"] = tools
        wanted = _format(request.get("text") or {})
        if wanted is not None:
            self.native["format"] = wanted
        think = common.think(string_of(request.get("reasoning") or {}, "effort", "reasoning"))
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


def _messages(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    for name in _STATE:
        if request.get(name):
            raise ApiError(400, f"{name} is not supported: no state is kept, send the whole conversation")
    system = request.get("instructions")
    before = [{"role": "system", "content": system}] if system else []
    return [*before, *input_messages(request.get("input"))]


def _tools(tools: Iterable[Mapping[str, Any]], prefix: str = "") -> Iterator[dict[str, Any]]:
    """The tools as functions; those of a namespace under its name, one level deep.

    Web search would run on the server, which has none: it is not on offer.
    """
    for tool in tools:
        kind, name = (string_of(tool, key, "tools") for key in ("type", "name"))
        if kind == "namespace" and not prefix:
            members = tool.get("tools")
            if not isinstance(members, list) or not all(isinstance(one, Mapping) for one in members):
                raise ApiError(
                    400, f"the tools of the namespace {json.dumps(name)[:100]} must be a list of tools"
                )
            yield from _tools(members, f"{name}." if name else "")
        elif not kind.startswith("web_search"):
            if kind == "namespace" or not name:
                raise ApiError(400, f"tools of the type {json.dumps(kind)[:100]} are not supported")
            named = name if name.startswith(prefix) else prefix + name
            function = {"name": named, "parameters": as_map(tool.get("parameters"))}
            if tool.get("description"):
                function["description"] = string_of(tool, "description", "tools")
            yield {"type": "function", "function": function}


def _format(text: Mapping[str, Any]) -> Any:
    wanted = as_map(text.get("format"))
    kind = string_of(wanted, "type", "text.format") or "text"
    if kind == "json_schema":
        if wanted.get("schema") is None:
            raise ApiError(400, "text.format is json_schema, and its schema is missing")
        return wanted["schema"]
    if kind not in {"text", "json_object"}:
        raise ApiError(400, f"text.format {json.dumps(kind)[:100]} is not supported")
    return "json" if kind == "json_object" else None
