"""`/v1/chat/completions` by way of `/api/chat`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bridge_core.dialects import openai_common as common
from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import ANY, BOOL, FLOAT64, INT, MAP, STRING, ListOf, Struct, decode
from bridge_core.dialects.wire import Reply, Stamp, Stream, Translation, data_line, usage, whole

_TOOL_CALL: Final = Struct(
    "ToolCall", {"id": STRING, "index": INT, "type": STRING, "function": MAP}, go="openai.ToolCall"
)
_MESSAGE: Final = Struct(
    "Message",
    {
        "role": STRING,
        "content": ANY,
        "reasoning": STRING,
        "tool_calls": ListOf("[]openai.ToolCall", _TOOL_CALL),
        "name": STRING,
        "tool_call_id": STRING,
    },
    go="openai.Message",
)
STREAM_OPTIONS: Final = Struct("StreamOptions", {"include_usage": BOOL}, go="openai.StreamOptions")
_REASONING: Final = Struct("Reasoning", {"effort": STRING}, go="openai.Reasoning")
_FORMAT: Final = Struct(
    "ResponseFormat",
    {"type": STRING, "json_schema": Struct("JsonSchema", {"schema": ANY}, go="openai.JsonSchema")},
    go="openai.ResponseFormat",
)
_REQUEST: Final = Struct(
    "ChatCompletionRequest",
    {
        "model": STRING,
        "messages": ListOf("[]openai.Message", _MESSAGE),
        "stream": BOOL,
        "stream_options": STREAM_OPTIONS,
        "max_tokens": INT,
        "max_completion_tokens": INT,
        "seed": INT,
        "stop": ANY,
        "temperature": FLOAT64,
        "frequency_penalty": FLOAT64,
        "presence_penalty": FLOAT64,
        "top_p": FLOAT64,
        "response_format": _FORMAT,
        "tools": ListOf("[]api.Tool", MAP),
        "reasoning": _REASONING,
        "reasoning_effort": STRING,
        "logprobs": BOOL,
        "top_logprobs": INT,
        "keep_alive": ANY,
        "_debug_render_only": BOOL,
    },
)


class ChatCompletion(Translation):
    """One chat completion."""

    path = "/api/chat"

    def __init__(self, body: bytes, stamp: Stamp) -> None:
        """Reads the request.

        Raises:
            ApiError: It cannot be translated.
        """
        request = decode(body, _REQUEST)
        if not request.get("messages"):
            raise ApiError(400, "[] is too short - 'messages'")
        self._id, self._created = (f"chatcmpl-{stamp.number(0, 1000)}", stamp.created)
        self.token = stamp.hex(1)
        self.wants_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        self.native = {
            "model": request.get("model", ""),
            "messages": common.native_messages(request["messages"]),
            "stream": request.get("stream", False),
            "options": common.options(request),
        }
        for name in ("tools", "logprobs", "top_logprobs", "keep_alive", "_debug_render_only"):
            if name in request:
                self.native[name] = request[name]
        wanted = _format(request.get("response_format") or {})
        if wanted is not None:
            self.native["format"] = wanted
        if "reasoning" in request:
            think = common.think(request["reasoning"].get("effort", ""))
        else:
            think = common.think(request.get("reasoning_effort", ""))
        if think is not None:
            self.native["think"] = think

    def whole(self, native: Mapping[str, Any]) -> Reply:
        """See Exchange."""
        message = native.get("message") or {}
        answer: dict[str, Any] = {
            "role": message.get("role", "assistant"),
            "content": message.get("content", ""),
        }
        if message.get("thinking"):
            answer["reasoning"] = message["thinking"]
        reason = native.get("done_reason") or None
        if message.get("tool_calls"):
            answer["tool_calls"] = common.openai_calls(message["tool_calls"], 0, self.token)
            reason = "tool_calls" if reason in {None, "stop"} else reason
        choice = {"index": 0, "message": answer, "finish_reason": reason, **_logprobs(native)}
        return whole(
            {
                **self.head("chat.completion", native),
                "choices": [choice],
                "usage": usage_of(native),
                **_debug(native),
            }
        )

    def stream(self) -> Stream:
        """See Exchange."""
        return _ChatStream(self)

    def failure(self, status: int, message: str) -> Reply:
        """See Exchange."""
        return common.failure(status, message)

    def head(self, kind: str, native: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that every object of the answer begins with."""
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": native.get("model") or self.native["model"],
            "system_fingerprint": common.FINGERPRINT,
        }


class _ChatStream(Stream):
    def __init__(self, exchange: ChatCompletion) -> None:
        super().__init__()
        self._exchange = exchange
        self._begun = False
        self._calls = 0

    def _translate(self, native: Mapping[str, Any]) -> bytes:
        message = native.get("message") or {}
        done = bool(native.get("done"))
        delta: dict[str, Any] = {}
        if message.get("content"):
            delta["content"] = message["content"]
        if message.get("thinking"):
            delta["reasoning"] = message["thinking"]
        if message.get("tool_calls"):
            delta["tool_calls"] = common.openai_calls(
                message["tool_calls"], self._calls, self._exchange.token
            )
            self._calls += len(delta["tool_calls"])
        if not self._begun:
            delta = {"role": "assistant", "content": "", **delta}
        logprobs = _logprobs(native)
        out = b""
        if delta or logprobs or not done:
            delta = delta or {"content": ""}
            out = self._chunk(native, {"index": 0, "delta": delta, "finish_reason": None, **logprobs})
        self._begun = True
        return out + self._end(native) if done else out

    def _end(self, native: Mapping[str, Any]) -> bytes:
        reason = native.get("done_reason") or "stop"
        if self._calls and reason == "stop":
            reason = "tool_calls"
        out = self._chunk(native, {"index": 0, "delta": {}, "finish_reason": reason})
        if self._exchange.wants_usage:
            out += self._chunk(native, None, usage=usage_of(native))
        return out + b"data: [DONE]\n\n"

    def _chunk(self, native: Mapping[str, Any], choice: dict[str, Any] | None, **more: Any) -> bytes:
        head = self._exchange.head("chat.completion.chunk", native)
        return data_line({**head, "choices": [] if choice is None else [choice], **more})

    def _failure(self, status: int, message: str) -> bytes:
        return data_line(common.error(status, message))


def usage_of(native: Mapping[str, Any]) -> dict[str, int]:
    """Token counts in OpenAI's words."""
    prompt, answer = usage(native)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _logprobs(native: Mapping[str, Any]) -> dict[str, Any]:
    return {"logprobs": {"content": native["logprobs"]}} if native.get("logprobs") else {}


def _debug(native: Mapping[str, Any]) -> dict[str, Any]:
    return {"_debug_info": native["_debug_info"]} if native.get("_debug_info") else {}


def _format(wanted: Mapping[str, Any]) -> Any:
    kind = str(wanted.get("type", "")).strip().lower()
    if kind == "json_object":
        return "json"
    if kind == "json_schema":
        schema = (wanted.get("json_schema") or {}).get("schema")
        if schema is None:
            raise ApiError(400, "response_format is json_schema, and json_schema.schema is missing")
        return schema
    if kind not in {"", "text"}:
        raise ApiError(400, f"response_format {wanted['type']!r} is not supported")
    return None
