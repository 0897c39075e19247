"""Shapes that Anthropic's whole and streamed answers share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

_KINDS: Final[Mapping[int, str]] = MappingProxyType(
    {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
        503: "overloaded_error",
        529: "overloaded_error",
    }
)


def error_body(status: int, message: str, request: str = "") -> dict[str, Any]:
    """An error as Anthropic's clients expect it; `request` identifies the request in an answer."""
    body: dict[str, Any] = {
        "type": "error",
        "error": {"type": _KINDS.get(status, "api_error"), "message": message},
    }
    return body | {"request_id": f"req_{request}"} if request else body


def stop_reason(native: Mapping[str, Any], *, called: bool) -> str:
    """Why the answer ended, in Anthropic's words."""
    if called:
        return "tool_use"
    return "max_tokens" if native.get("done_reason") == "length" else "end_turn"
