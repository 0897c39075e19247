"""The messages of a request to `/v1/messages` as the messages of a chat.

Rules:
1. Results of tools become messages of their own: before what a user says beside them, because they
   answer the calls of the turn before, and after what anybody else says.
2. Thinking that was redacted cannot be read by anybody: it adds nothing.
3. A block that is not understood is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import one_line_base64, string_of
from bridge_core.dialects.values import as_list, as_map

Message = dict[str, Any]
_SEARCH_FAILED = "web_search_tool_result_error"


def system_messages(system: Any) -> list[Message]:
    """What `system` says, as at most one message.

    Raises:
        ApiError: 400; it is neither a text nor blocks of text.
    """
    if isinstance(system, list):
        for block in system:
            if as_map(block).get("type") != "text":
                raise _unknown(as_map(block).get("type"), "system")
        system = "".join(string_of(block, "text", "system") for block in system)
    if not isinstance(system, str | None):
        raise ApiError(400, "system must be a string or an array of text blocks")
    return [{"role": "system", "content": system}] if system else []


def input_messages(messages: Iterable[Mapping[str, Any]]) -> list[Message]:
    """The messages, in order.

    Raises:
        ApiError: 400; a block is not understood.
    """
    found: list[Message] = []
    called: dict[str, str] = {}  # names of tools by the id of their call: results give only the id
    for message in messages:
        found += _message(str(message.get("role", "")).lower(), message.get("content"), called)
    return found


def _message(role: str, content: Any, called: dict[str, str]) -> list[Message]:
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise ApiError(400, "invalid message content type")
    native: Message = {"role": role, "content": ""}
    results: list[Message] = []
    for block in content:
        if not isinstance(block, Mapping):
            raise ApiError(400, "invalid content block format")
        _block(block, native, results, called)
    own = [native] if len(native) > 2 or native["content"] else []
    return [*results, *own] if role == "user" else [*own, *results]


def _block(block: Mapping[str, Any], native: Message, results: list[Message], called: dict[str, str]) -> None:
    kind = string_of(block, "type", "content")
    if kind == "text":
        native["content"] += string_of(block, "text", "text")
    elif kind == "image":
        native.setdefault("images", []).append(_image(block.get("source"), "invalid image source"))
    elif kind == "thinking":
        native["thinking"] = native.get("thinking", "") + string_of(block, "thinking", "thinking")
    elif kind in {"tool_use", "server_tool_use"}:
        _call(kind, block, native, called)
    elif kind in {"tool_result", "web_search_tool_result"}:
        identity = string_of(block, "tool_use_id", kind)
        content = block.get("content")
        said = {"content": _found(content)} if kind == "web_search_tool_result" else _result(content)
        result = {"role": "tool", **said, "tool_call_id": identity}
        results.append(result | ({"tool_name": called[identity]} if identity in called else {}))
    elif kind != "redacted_thinking":
        raise _unknown(kind, "content")


def _call(kind: str, block: Mapping[str, Any], native: Message, called: dict[str, str]) -> None:
    identity, name = (string_of(block, key, kind) for key in ("id", "name"))
    for key, value in (("id", identity), ("name", name)):
        if not value:
            raise ApiError(400, f"{kind} block missing required '{key}' field")
    called[identity] = name
    calls = native.setdefault("tool_calls", [])
    function = {"index": len(calls), "name": name, "arguments": as_map(block.get("input"))}
    calls.append({"id": identity, "function": function})


def _image(source: Any, otherwise: str) -> str:
    if not isinstance(source, Mapping):
        raise ApiError(400, otherwise)
    if source.get("type") != "base64":
        raise ApiError(
            400, f"invalid image source type: {source.get('type')}. Only base64 images are supported."
        )
    return one_line_base64(string_of(source, "data", "source"), "invalid base64 image data")


def _result(content: Any) -> Message:
    if content is None or isinstance(content, str):
        return {"content": content or ""}
    text, images = "", []
    for block in [as_map(one) for one in as_list(content)]:
        if block.get("type") == "text":
            text += string_of(block, "text", "tool_result")
        elif block.get("type") == "image":
            images.append(_image(block.get("source"), "invalid tool_result image source"))
        else:
            raise _unknown(block.get("type"), "tool_result")
    return {"content": text} | ({"images": images} if images else {})


def _found(content: Any) -> str:
    """What a web search found, a line each, or why it failed."""
    if isinstance(content, str):
        return content
    lines = []
    for block in as_list(content) if isinstance(content, list) else [content]:
        kind = string_of(as_map(block), "type", "web_search_tool_result")
        if kind == _SEARCH_FAILED:
            code = string_of(block, "error_code", kind)
            return f"{_SEARCH_FAILED}: {code}" if code else _SEARCH_FAILED
        if kind != "web_search_result":
            raise _unknown(kind, "web_search_tool_result")
        lines.append(f"- {string_of(block, 'title', kind)}: {string_of(block, 'url', kind)}\n")
    return "".join(lines)


def _unknown(kind: Any, where: str) -> ApiError:
    return ApiError(400, f"{where} blocks of the type {json.dumps(kind)[:100]} are not supported")
