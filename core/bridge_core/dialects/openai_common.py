"""What OpenAI's endpoints share: errors, options, messages, tool calls."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import decode_value, one_line_base64, string_of
from bridge_core.dialects.values import as_map
from bridge_core.dialects.wire import Reply, encode

FINGERPRINT = "fp_ollama"
_IMAGE = re.compile(r"data:(?:image/(?:jpeg|jpg|png|webp))?;base64,", re.IGNORECASE)
_EFFORTS: Mapping[str, bool | str] = MappingProxyType(
    {
        "none": False,
        "minimal": "low",
        "low": "low",
        "medium": "medium",
        "high": "high",
        "xhigh": "max",
        "ultra": "max",
        "max": "max",
    }
)


def error(status: int, message: str) -> dict[str, Any]:
    """An error as OpenAI's clients expect it."""
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def refusal(status: int, message: str) -> Reply:
    """The answer to a request that could not be translated."""
    return Reply(status, "application/json; charset=utf-8", encode(error(status, message)))


def failure(status: int, message: str) -> Reply:
    """The answer to a request that the engine refused."""
    return Reply(status, "application/json", encode(error(status, message)) + b"\n")


def options(request: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling options, with OpenAI's defaults where they are not Ollama's.

    Raises:
        ApiError: `stop` is neither a string nor strings.
    """
    found: dict[str, Any] = {}
    stop = request.get("stop")
    if isinstance(stop, str):
        found["stop"] = [stop]
    elif isinstance(stop, list):
        if not all(isinstance(one, str) for one in stop):
            raise ApiError(400, "invalid type for 'stop' field: expected strings")
        found["stop"] = stop
    elif stop is not None:
        raise ApiError(400, "invalid type for 'stop' field: expected a string or an array")
    limit = request.get("max_completion_tokens", request.get("max_tokens"))
    if limit is not None:
        found["num_predict"] = limit
    for name in ("seed", "frequency_penalty", "presence_penalty"):
        if name in request:
            found[name] = request[name]
    found["temperature"] = request.get("temperature", 1.0)
    found["top_p"] = request.get("top_p", 1.0)
    return found


def think(effort: str) -> bool | str | None:
    """Ollama's `think` for OpenAI's reasoning effort, the nearest tier; None leaves it to the model.

    Raises:
        ApiError: There is no such effort.
    """
    if not effort:
        return None
    if effort not in _EFFORTS:
        known = ", ".join(f'"{one}"' for one in _EFFORTS)
        raise ApiError(400, f"invalid reasoning value: {json.dumps(effort)} (must be one of {known})")
    return _EFFORTS[effort]


def image(url: Any) -> str:
    """The base64 of an image given as a data URL.

    Raises:
        ApiError: It is not a data URL of a picture.
    """
    if isinstance(url, Mapping):
        url = url.get("url")
    if not isinstance(url, str):
        raise ApiError(400, "invalid message format")
    if url.startswith(("http://", "https://")):
        raise ApiError(400, "images at URLs are not fetched, please send them as base64 in a data URL")
    matched = _IMAGE.match(url)
    if matched is None:
        raise ApiError(400, "invalid image input")
    return one_line_base64(url[matched.end() :], "invalid image input")


def native_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Chat messages in Ollama's shape; each part of a message becomes a message.

    Raises:
        ApiError: Content, an image, or the arguments of a tool call cannot be read.
    """
    found: list[dict[str, Any]] = []
    called: dict[str, str] = {}  # names of tools by the id of their call: results give only the id
    for message in messages:
        for call in _native_calls(message.get("tool_calls") or ()):
            called[call["id"]] = call["function"]["name"]
    for message in messages:
        calls = _native_calls(message.get("tool_calls") or ())
        base = {"role": message.get("role", "")}
        parts = _parts(message.get("content"), optional="tool_calls" in message)
        natives = [base | part for part in parts] or [base | {"content": ""}]
        last = natives[-1]
        if message.get("reasoning"):
            last["thinking"] = message["reasoning"]
        if calls:
            last["tool_calls"] = calls
        if message.get("tool_call_id"):
            last["tool_call_id"] = message["tool_call_id"]
        name = message.get("name") or called.get(message.get("tool_call_id", ""))
        if name and base["role"].lower() == "tool":
            last["tool_name"] = name
        found += natives
    return found


def _parts(content: Any, *, optional: bool) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"content": content}]
    if content is None and optional:
        return [{"content": ""}]
    if not isinstance(content, list):
        raise ApiError(400, f"invalid message content type: {_go_type(content)}")
    return [_part(part) for part in content]


def _part(part: Any) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise ApiError(400, "invalid message format")
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return {"content": part["text"]}
    if kind == "image_url":
        return {"content": "", "images": [image(part.get("image_url"))]}
    if kind == "text":
        raise ApiError(400, "invalid message format: a text part has no text")
    raise ApiError(400, f"invalid message format: content parts of the type {_named(kind)} are not supported")


def _named(kind: Any) -> str:
    """A kind as a message repeats it."""
    return json.dumps(kind)[:100]


def _go_type(value: Any) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "bool"
    return "float64" if isinstance(value, int | float) else "map[string]interface {}"


def _native_calls(calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for index, call in enumerate(calls):
        function = as_map(call.get("function"))
        name, text = string_of(function, "name", "ToolCall.function"), function.get("arguments")
        native = {"index": index, "name": name, "arguments": arguments(text)}
        found.append({"id": str(call.get("id") or ""), "function": native})
    return found


def arguments(text: Any) -> dict[str, Any]:
    """The arguments of a tool call, which OpenAI carries as JSON in a string.

    Raises:
        ApiError: It is not JSON of an object.
    """
    problem = "invalid tool call arguments"
    value = decode_value(text or "{}", problem) if isinstance(text, str | None) else text
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ApiError(400, problem)
    return value


def openai_calls(native: Iterable[Mapping[str, Any]], first: int, token: str) -> list[dict[str, Any]]:
    """Tool calls of an answer in OpenAI's shape.

    Args:
        native: As in a native message.
        first: Index of the first among all calls of the answer.
        token: What ids are made from where the engine gave none.
    """
    found = []
    for index, call in enumerate(native, first):
        function = call.get("function") or {}
        found.append(
            {
                "id": call.get("id") or f"call_{token[:7]}{index}",
                "index": index,
                "type": "function",
                "function": {
                    "name": function.get("name", ""),
                    "arguments": encode(function.get("arguments") or {}).decode(),
                },
            }
        )
    return found
