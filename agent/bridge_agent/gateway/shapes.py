"""Errors in the shape of the protocol that the client speaks, before and inside a stream."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from bridge_agent.gateway.routes import Framing, Protocol

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_CODES: Final = {429: "rate_limit_exceeded"}  # which OpenAI's clients tell one limit from another by
_OLLAMA_JSON: Final = b"application/json; charset=utf-8"
_COMPAT_JSON: Final = b"application/json"
_encode: Final = msgspec.json.encode


def error_type(status: int, protocol: Protocol) -> str:
    """The `type` that OpenAI's and Anthropic's shapes name a status by."""
    if protocol == "anthropic" and status == 503:
        return "overloaded_error"
    return _TYPES.get(status, "api_error")


def error_body(
    protocol: Protocol, status: int, message: str, request_id: str, *, unread: bool = False
) -> tuple[bytes, bytes]:
    """Content type and body of an error answer.

    Args:
        protocol: Whose shape.
        status: The answer's status.
        message: What is wrong.
        request_id: For shapes that carry one.
        unread: The body could not be read; Ollama writes these without its usual line end.
    """
    body = _encode(_error(protocol, status, message, request_id))
    if protocol == "ollama" or unread:
        return _OLLAMA_JSON, body
    return _COMPAT_JSON, body + b"\n"


def stream_error(framing: Framing, status: int, message: str, request_id: str, *, sequence: int = 0) -> bytes:
    """What ends a stream that cannot go on; empty where the framing has no room for one.

    It may follow any whole line: a leading blank line ends an event whose own end did not come.
    `sequence` is the event's number, in a framing that numbers them.
    """
    if framing is Framing.NDJSON or framing is Framing.PROGRESS:
        return _encode({"error": message}) + b"\n"
    if framing is Framing.CHAT_SSE:
        return b"\ndata: " + _encode(_error("openai", status, message, request_id)) + b"\n\n"
    if framing is Framing.RESPONSES_SSE:
        fault = {
            "type": "error",
            "code": error_type(status, "openai"),
            "message": message,
            "param": None,
            "sequence_number": sequence,
        }
        return b"\nevent: error\ndata: " + _encode(fault) + b"\n\n"
    if framing is Framing.MESSAGES_SSE:
        return b"\nevent: error\ndata: " + _encode(_error("anthropic", status, message, request_id)) + b"\n\n"
    return b""


def _error(protocol: Protocol, status: int, message: str, request_id: str) -> dict[str, Any]:
    if protocol == "ollama":
        return {"error": message}
    kind = error_type(status, protocol)
    if protocol == "openai":
        return {"error": {"message": message, "type": kind, "param": None, "code": _CODES.get(status)}}
    fault = {"type": kind, "message": message}
    return {"type": "error", "error": fault, "request_id": f"req_{request_id}"}
