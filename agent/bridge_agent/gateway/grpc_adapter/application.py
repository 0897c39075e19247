"""The ASGI application of the gRPC listener: which service a call goes to, and who calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2

from bridge_agent.authentication.refusal import Refused
from bridge_agent.gateway.grpc_adapter import streaming, unary
from bridge_agent.gateway.grpc_adapter.callers import Callers
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.health import Health, HealthApplication
from bridge_agent.gateway.grpc_adapter.native import NativeCalls, percent_encoded, takes
from bridge_agent.gateway.grpc_adapter.reflection import reflection_applications
from bridge_agent.gateway.grpc_adapter.service import (
    ModelInferenceService,
    caller_of_call,
)
from bridge_agent.gateway.grpc_adapter.translate import MAX_MESSAGE
from bridge_core.http1 import App, Request
from bridge_wire.v1 import inference_pb2
from bridge_wire.v1.inference_connect import ModelInferenceASGIApplication

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
SERVICE: Final = "bridge.v1.ModelInference"
_NATIVE: Final = {unary.PATH: unary.predict, streaming.PATH: streaming.predict_stream}
_CODES: Final = {401: 16, 403: 7, 429: 8, 503: 14}
_HTTP: Final = {12: 404, 16: 401, 7: 403, 8: 429, 14: 503}

Refusal = Callable[[Request, str], Refused | None]


class GrpcApplication:
    """Everything the gRPC listener serves.

    Args:
        pipeline: The gateway's entry.
        health: What health clients are told.
        refusal: Why a call is nobody's who may call, told its head and its certificate's serial.
        calls: Keeps those under way.
    """

    def __init__(self, pipeline: App, health: Health, *, refusal: Refusal, calls: Calls) -> None:
        self._refusal = refusal
        self._callers = Callers()
        self._native = NativeCalls(pipeline, calls)
        service = ModelInferenceService(pipeline, calls)
        inference = ModelInferenceASGIApplication(service, read_max_bytes=MAX_MESSAGE)
        # By whole path: connectrpc answers an unknown method of a known service with a broken stream.
        self._routes: dict[str, Any] = {
            **_paths(inference_pb2.DESCRIPTOR, inference),
            **_paths(health_pb2.DESCRIPTOR, HealthApplication(health)),
        }
        for path, reflection in reflection_applications().items():
            self._routes[f"{path}/ServerReflectionInfo"] = reflection

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
        application = self._routes.get(path)
        if application is None:
            await _refuse(scope, send, 12, f"{path} is not served here")
            return
        caller_of_call.set(caller)
        await application(scope, receive, send)


def _paths(file: FileDescriptor, application: Any) -> dict[str, Any]:
    return {
        f"/{service.full_name}/{method.name}": application
        for service in file.services_by_name.values()
        for method in service.methods
    }


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
