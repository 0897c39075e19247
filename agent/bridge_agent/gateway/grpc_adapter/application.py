"""The ASGI application of the gRPC listener: which service a call goes to, and who calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bridge_agent.authentication.refusal import Refused
from bridge_agent.gateway.grpc_adapter import current, streaming, unary
from bridge_agent.gateway.grpc_adapter.callers import Callers
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.native import (
    Asgi,
    NativeCalls,
    Receive,
    Send,
    percent_encoded,
    takes,
)
from bridge_agent.gateway.grpc_adapter.serving import Serving
from bridge_agent.made_once import MadeOnce
from bridge_core.http1 import App, Request

_NATIVE: Final = {unary.PATH: unary.predict, streaming.PATH: streaming.predict_stream}
_CODES: Final = {401: 16, 403: 7, 429: 8, 503: 14}
_HTTP: Final = {12: 404, 16: 401, 7: 403, 8: 429, 14: 503}

Refusal = Callable[[Request, str], Refused | None]


class GrpcApplication:
    """Everything the gRPC listener serves.

    Args:
        pipeline: The gateway's entry.
        serving: What health clients are told.
        refusal: Why a call is nobody's who may call, told its head and its certificate's serial.
        calls: Keeps those under way.
    """

    def __init__(self, pipeline: App, serving: Serving, *, refusal: Refusal, calls: Calls) -> None:
        self._pipeline = pipeline
        self._serving = serving
        self._refusal = refusal
        self._calls = calls
        self._callers = Callers()
        self._native = NativeCalls(pipeline, calls)
        self._others = MadeOnce(self._made)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        caller = self._callers.of(scope)
        refused = self._refusal(caller.head, caller.serial)
        if refused is not None:
            await _refuse(scope, send, _CODES[refused.status], refused.message)
            return
        self._callers.admitted(caller)
        path = scope["path"]
        serve = _NATIVE.get(path)
        if serve is not None:
            headers = dict(scope["headers"])
            if takes(headers):
                await serve(self._native, caller, headers, receive, send)
                return
        application = (await self._others.get()).get(path)
        if application is None:
            await _refuse(scope, send, 12, f"{path} is not served here")
            return
        current.caller.set(caller)
        await application(scope, receive, send)

    def _made(self) -> dict[str, Asgi]:
        """What is not served here."""
        from bridge_agent.gateway.grpc_adapter.others import other_calls

        return other_calls(self._pipeline, self._serving, self._calls)


async def _refuse(scope: dict[str, Any], send: Send, code: int, message: str) -> None:
    """Ends a call that reaches no service, in gRPC's shape or in HTTP's."""
    content_type = dict(scope["headers"]).get(b"content-type", b"")
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    status = _HTTP[code]
    body = f"{message}\n".encode()
    if content_type.startswith(b"application/grpc"):
        status, body = 200, b""
        headers = [
            (b"content-type", content_type),
            (b"grpc-status", b"%d" % code),
            (b"grpc-message", percent_encoded(message)),
        ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
