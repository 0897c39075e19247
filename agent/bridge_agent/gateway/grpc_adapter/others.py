"""What the gRPC listener serves through connectrpc: rarer shapes of calls, health, reflection.

Loaded with the first of them: the library, and what it brings along, takes 8 MiB.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2

from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.health import Health, HealthApplication
from bridge_agent.gateway.grpc_adapter.native import Asgi
from bridge_agent.gateway.grpc_adapter.reflection import reflection_applications
from bridge_agent.gateway.grpc_adapter.service import ModelInferenceService
from bridge_agent.gateway.grpc_adapter.serving import Serving
from bridge_agent.gateway.grpc_adapter.translate import MAX_MESSAGE
from bridge_core.http1 import App
from bridge_wire.v1 import inference_pb2
from bridge_wire.v1.inference_connect import ModelInferenceASGIApplication

_INFERENCE = "bridge.v1.ModelInference"


def other_calls(pipeline: App, serving: Serving, calls: Calls) -> dict[str, Asgi]:
    """ASGI applications by the path that they serve; who calls is told them by `current.caller`.

    By whole path: connectrpc answers an unknown method of a known service with a broken stream.
    """
    service = ModelInferenceService(pipeline, calls)
    inference = ModelInferenceASGIApplication(service, read_max_bytes=MAX_MESSAGE)
    health = HealthApplication(Health((_INFERENCE,), serving))
    routes: dict[str, Asgi] = {
        **_paths(inference_pb2.DESCRIPTOR, inference),
        **_paths(health_pb2.DESCRIPTOR, health),
    }
    for path, reflection in reflection_applications().items():
        routes[f"{path}/ServerReflectionInfo"] = reflection
    return routes


def _paths(file: FileDescriptor, application: Any) -> dict[str, Any]:
    return {
        f"/{service.full_name}/{method.name}": application
        for service in file.services_by_name.values()
        for method in service.methods
    }
