"""The shapes of the native API's requests, and the fields whose values need reading."""

from __future__ import annotations

import json
from typing import Any, Final

from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.go_durations import MAX_TEXT, parse_go_duration
from bridge_core.dialects.gojson import ANY, BOOL, INT, MAP, STRING, ListOf, Struct

FOREVER: Final = float("inf")

_COMMON: Final = {
    "model": STRING,
    "stream": BOOL,
    "keep_alive": ANY,
    "options": MAP,
    "truncate": BOOL,
}
_GENERATIVE: Final = {
    **_COMMON,
    "format": ANY,
    "think": ANY,
    "shift": BOOL,
    "logprobs": BOOL,
    "top_logprobs": INT,
    "_debug_render_only": BOOL,
}
_FUNCTION_CALL: Final = Struct(
    "ToolCallFunction", {"index": INT, "name": STRING, "arguments": MAP}, go="api.ToolCallFunction"
)
_MESSAGE: Final = Struct(
    "Message",
    {
        "role": STRING,
        "content": STRING,
        "thinking": STRING,
        "images": ListOf("[]api.ImageData", STRING),
        "tool_calls": ListOf(
            "[]api.ToolCall",
            Struct("ToolCall", {"id": STRING, "function": _FUNCTION_CALL}, go="api.ToolCall"),
        ),
        "tool_name": STRING,
        "tool_call_id": STRING,
    },
    go="api.Message",
)

GENERATE: Final = Struct(
    "GenerateRequest",
    {
        **_GENERATIVE,
        "prompt": STRING,
        "suffix": STRING,
        "system": STRING,
        "template": STRING,
        "context": ListOf("[]int", INT),
        "raw": BOOL,
        "images": ListOf("[]api.ImageData", STRING),
    },
)
CHAT: Final = Struct(
    "ChatRequest",
    {
        **_GENERATIVE,
        "messages": ListOf("[]api.Message", _MESSAGE),
        "tools": ListOf("api.Tools", MAP),
        "_relax_thinking": BOOL,  # ours: thinking that the model cannot do is left out, not refused
    },
)
EMBED: Final = Struct(
    "EmbedRequest", {**_COMMON, "input": ANY, "dimensions": INT, "prompt_eval_counts": BOOL}
)
EMBEDDINGS: Final = Struct("EmbeddingRequest", {**_COMMON, "prompt": STRING})
SHOW: Final = Struct(
    "ShowRequest",
    {"model": STRING, "name": STRING, "verbose": BOOL, "system": STRING, "template": STRING, "options": MAP},
)
COPY: Final = Struct("CopyRequest", {"source": STRING, "destination": STRING})
DELETE: Final = Struct("DeleteRequest", {"model": STRING, "name": STRING})
PULL: Final = Struct("PullRequest", {"model": STRING, "name": STRING, "insecure": BOOL, "stream": BOOL})
PUSH: Final = Struct("PushRequest", PULL.fields)
CREATE: Final = Struct(
    "CreateRequest",
    {
        "model": STRING,
        "name": STRING,
        "stream": BOOL,
        "quantize": STRING,
        "from": STRING,
        "files": MAP,
        "adapters": MAP,
        "template": STRING,
        "license": ANY,
        "system": STRING,
        "parameters": MAP,
        "messages": ListOf("[]api.Message", _MESSAGE),
        "renderer": STRING,
        "parser": STRING,
        "requires": STRING,
    },
)

_EFFORTS: Final = ("high", "medium", "low", "max")


def duration(text: str) -> float:
    """Reads a duration in Go's notation (`5m`, `1h30m`, `-1s`), in seconds.

    Raises:
        ApiError: 400; not a duration.
    """
    try:
        return parse_go_duration(text)
    except ValueError as fault:
        quoted = json.dumps(text[:MAX_TEXT], ensure_ascii=False)
        raise ApiError(400, f"time: invalid duration {quoted}") from fault


def keep_alive(value: Any) -> float | None:
    """How long a model stays loaded after a request, in seconds; `FOREVER` where it is negative.

    Returns:
        None where the request does not say.

    Raises:
        ApiError: 400; neither a number of seconds nor a duration.
    """
    if value is None:
        return None
    if isinstance(value, str):
        seconds = duration(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        raise ApiError(400, f"Unsupported type: {type(value).__name__!r}")
    return FOREVER if seconds < 0 else seconds


def think(value: Any) -> bool | str | None:
    """What the request says of thinking: true, false, an effort, or nothing.

    Raises:
        ApiError: 400; another value.
    """
    if value is None or isinstance(value, bool) or (isinstance(value, str) and value in _EFFORTS):
        return value
    if isinstance(value, str):
        choices = ", ".join(f'"{effort}"' for effort in ("high", "medium", "low", "max"))
        raise ApiError(400, f"invalid think value: {json.dumps(value)} (must be {choices}, true, or false)")
    raise ApiError(400, 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)')


def model_field(body: dict[str, Any]) -> str:
    """The model a store request names, under either of the two names of the field."""
    return str(body.get("model") or body.get("name") or "")
