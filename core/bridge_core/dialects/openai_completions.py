"""`/v1/completions` by way of `/api/generate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bridge_core.dialects import openai_common as common
from bridge_core.dialects.gojson import ANY, BOOL, FLOAT64, INT, STRING, Struct, decode
from bridge_core.dialects.openai_chat import STREAM_OPTIONS, usage_of
from bridge_core.dialects.wire import Reply, Stamp, Stream, Translation, data_line, whole

_NO_USAGE: Final = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
_REQUEST: Final = Struct(
    "CompletionRequest",
    {
        "model": STRING,
        "prompt": STRING,
        "suffix": STRING,
        "stream": BOOL,
        "stream_options": STREAM_OPTIONS,
        "max_tokens": INT,
        "seed": INT,
        "stop": ANY,
        "temperature": FLOAT64,
        "frequency_penalty": FLOAT64,
        "presence_penalty": FLOAT64,
        "top_p": FLOAT64,
        "logprobs": INT,
        "keep_alive": ANY,
        "_debug_render_only": BOOL,
    },
)


class Completion(Translation):
    """One text completion."""

    path = "/api/generate"

    def __init__(self, body: bytes, stamp: Stamp) -> None:
        """Reads the request.

        Raises:
            ApiError: It cannot be translated.
        """
        request = decode(body, _REQUEST)
        self.head = (f"cmpl-{stamp.number(0, 1000)}", stamp.created)
        self.wants_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        self.native = {
            "model": request.get("model", ""),
            "prompt": request.get("prompt", ""),
            "stream": request.get("stream", False),
            "options": common.options(request),
        }
        for name in ("suffix", "keep_alive", "_debug_render_only"):
            if name in request:
                self.native[name] = request[name]
        if request.get("logprobs", 0) > 0:
            self.native |= {"logprobs": True, "top_logprobs": request["logprobs"]}

    def whole(self, native: Mapping[str, Any]) -> Reply:
        """See Exchange."""
        return whole(
            {
                "id": self.head[0],
                "object": "text_completion",
                "created": self.head[1],
                "model": native.get("model") or self.native["model"],
                "system_fingerprint": common.FINGERPRINT,
                "choices": [self.choice(native, native.get("done_reason") or None)],
                "usage": usage_of(native),
            }
        )

    def stream(self) -> Stream:
        """See Exchange."""
        return _CompletionStream(self)

    def failure(self, status: int, message: str) -> Reply:
        """See Exchange."""
        return common.failure(status, message)

    @staticmethod
    def choice(native: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
        """The one choice that an object of the answer carries."""
        logprobs = {"logprobs": {"content": native["logprobs"]}} if native.get("logprobs") else {}
        return {"text": native.get("response", ""), "index": 0, "finish_reason": reason, **logprobs}


class _CompletionStream(Stream):
    def __init__(self, exchange: Completion) -> None:
        super().__init__()
        self._exchange = exchange

    def _translate(self, native: Mapping[str, Any]) -> bytes:
        if not native.get("done"):
            return self._chunk(native, [self._exchange.choice(native, None)], _NO_USAGE)
        last = self._exchange.choice(native, native.get("done_reason") or "stop")
        out = self._chunk(native, [last], _NO_USAGE)
        if self._exchange.wants_usage:
            out += self._chunk(native, [], usage_of(native))
        return out + b"data: [DONE]\n\n"

    def _chunk(
        self, native: Mapping[str, Any], choices: list[dict[str, Any]], counts: dict[str, int]
    ) -> bytes:
        chunk = {
            "id": self._exchange.head[0],
            "object": "text_completion",
            "created": self._exchange.head[1],
            "choices": choices,
            "model": native.get("model") or self._exchange.native["model"],
            "system_fingerprint": common.FINGERPRINT,
        }
        if self._exchange.wants_usage:
            chunk["usage"] = counts
        return data_line(chunk)

    def _failure(self, status: int, message: str) -> bytes:
        return data_line(common.error(status, message))
