"""The ASGI application of the gRPC listener: which service a call goes to, and who calls."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, Final

from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2

from bridge_agent.authentication.credentials import FIELDS
from bridge_agent.authentication.refusal import Refused
from bridge_agent.gateway.grpc_adapter import unary
from bridge_agent.gateway.grpc_adapter.health import Health, HealthApplication
from bridge_agent.gateway.grpc_adapter.in_process import Calls
from bridge_agent.gateway.grpc_adapter.reflection import reflection_applications
from bridge_agent.gateway.grpc_adapter.service import (
    LISTENER,
    GrpcCaller,
    ModelInferenceService,
    caller_of_call,
)
from bridge_agent.gateway.grpc_adapter.translate import MAX_MESSAGE
from bridge_agent.tracing.context_rules import FIELDS as TRACE_FIELDS
from bridge_core.http1 import App, Headers, Request
from bridge_core.identity import IdentityFault
from bridge_core.identity.certificate_info import CertifiedName
from bridge_core.identity.certificates import describe
from bridge_wire.v1 import inference_pb2
from bridge_wire.v1.inference_connect import ModelInferenceASGIApplication

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
SERVICE: Final = "bridge.v1.ModelInference"
_TLS_1_3: Final = 0x0304
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
        self._calls = calls
        self._pipeline = pipeline
        inference = ModelInferenceASGIApplication(ModelInferenceService(pipeline), read_max_bytes=MAX_MESSAGE)
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
        caller, serial = _caller(scope, self._calls)
        refused = self._refusal(_head(scope, caller), serial)
        if refused is not None:
            await _refuse(scope, send, _CODES[refused.status], refused.message)
            return
        path = scope["path"]
        if path == unary.PATH:
            headers = dict(scope["headers"])
            if unary.takes(headers):
                await unary.predict(self._pipeline, caller, headers, receive, send)
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


def _head(scope: dict[str, Any], caller: GrpcCaller) -> Request:
    """What the pipeline will be shown of who calls."""
    request = Request("POST", scope["path"].encode(), Headers(list(caller.carried)), caller.memo)
    request.identity, request.remote, request.listener = caller.identity, caller.remote, LISTENER
    return request


def _caller(scope: dict[str, Any], calls: Calls) -> tuple[GrpcCaller, str]:
    tls = scope.get("extensions", {}).get("tls")
    client = scope.get("client")
    remote = (client[0], client[1]) if client else None
    if not tls or (tls["tls_version"] or 0) < _TLS_1_3:
        return GrpcCaller(None, remote, (), {}, calls), ""  # what it shows was shown to everybody
    carried = tuple(
        (name, value)
        for name, value in scope["headers"]
        if name in FIELDS or (name in TRACE_FIELDS and _is_plain(value))
    )
    chain = tls["client_cert_chain"]
    identity, serial = _named(chain[0]) if chain else (None, "")
    return GrpcCaller(identity, remote, carried, {}, calls), serial


def _is_plain(value: bytes) -> bool:
    """Whether it can be passed on in a head of HTTP/1.1."""
    return value.isascii() and value.decode().isprintable()


@lru_cache(maxsize=1024)
def _named(pem: str) -> tuple[str | None, str]:
    """Identity and serial of a verified certificate; a connection shows the same one with every call."""
    try:
        info = describe(pem.encode())
    except IdentityFault:
        return None, ""
    if info.identity is None:
        return None, info.serial
    return CertifiedName(str(info.identity), ssl.PEM_cert_to_DER_cert(pem)), info.serial


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
            (b"grpc-message", unary.percent_encoded(message)),
        ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
