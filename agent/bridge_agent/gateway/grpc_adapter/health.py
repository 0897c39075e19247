"""The standard gRPC health service, `grpc.health.v1.Health`, Watch included."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from connectrpc.code import Code
from connectrpc.compat import google_protobuf_codecs
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.server import ConnectASGIApplication, Endpoint
from grpc_health.v1 import health_pb2

from bridge_agent.gateway.grpc_adapter.serving import Serving

PATH: Final = "/grpc.health.v1.Health"
_SERVICE: Final = "grpc.health.v1.Health"
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """What health clients ask for: the state of the whole server ("") and of each service alike."""

    def __init__(self, services: tuple[str, ...], serving: Serving) -> None:
        self._services = ("", *services)
        self._serving = serving

    async def check(self, request: Any, _ctx: Any, /) -> Any:
        """One answer; NOT_FOUND for a service that is not here."""
        if request.service not in self._services:
            raise ConnectError(Code.NOT_FOUND, f"service {request.service!r} is not served here")
        return self._response()

    async def watch(self, request: Any, _ctx: Any, /) -> AsyncIterator[Any]:
        """An answer now and with every change; SERVICE_UNKNOWN for a service that is not here."""
        known = request.service in self._services
        while True:
            changed = self._serving.changed
            yield self._response() if known else health_pb2.HealthCheckResponse(status=_UNKNOWN)
            await changed.wait()

    async def list(self, _request: Any, _ctx: Any, /) -> Any:
        """Every service at once."""
        return health_pb2.HealthListResponse(statuses={name: self._response() for name in self._services})

    def _response(self) -> Any:
        return health_pb2.HealthCheckResponse(status=_SERVING if self._serving.value else _NOT_SERVING)


class HealthApplication(ConnectASGIApplication[Health]):
    """Serves a `Health` over ASGI."""

    def __init__(self, health: Health) -> None:
        super().__init__(service=health, endpoints=_endpoints, codecs=google_protobuf_codecs())

    @property
    def path(self) -> str:
        """Where it is mounted."""
        return PATH


def _endpoints(health: Health) -> dict[str, Any]:
    request, response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
    return {
        f"{PATH}/Check": Endpoint.unary(
            method=_method("Check", request, response, StreamType.UNARY), function=health.check
        ),
        f"{PATH}/Watch": Endpoint.server_stream(
            method=_method("Watch", request, response, StreamType.SERVER_STREAM), function=health.watch
        ),
        f"{PATH}/List": Endpoint.unary(
            method=_method(
                "List", health_pb2.HealthListRequest, health_pb2.HealthListResponse, StreamType.UNARY
            ),
            function=health.list,
        ),
    }


def _method(name: str, request: Any, response: Any, stream: StreamType) -> Any:
    return MethodInfo(
        name=name,
        service_name=_SERVICE,
        input=request,
        output=response,
        idempotency_level=IdempotencyLevel.NO_SIDE_EFFECTS,
        stream_type=stream,
    )
