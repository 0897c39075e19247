"""gRPC server reflection, v1 and v1alpha, of what the listener serves."""

from __future__ import annotations

from typing import Any, Final

from connectrpc_grpcreflect import (
    ServerReflectionAlphaASGIApplication,
    ServerReflectionAlphaService,
    ServerReflectionASGIApplication,
    ServerReflectionService,
)
from google.protobuf.descriptor import FileDescriptor
from grpc_health.v1 import health_pb2

# The reflection library has descriptors of its own; this is how its generated code makes them.
from protobuf._file_registry import create_file_registry
from protobuf.wkt import FileDescriptorProto

from bridge_wire.v1 import inference_pb2

V1: Final = "/grpc.reflection.v1.ServerReflection"
V1ALPHA: Final = "/grpc.reflection.v1alpha.ServerReflection"


def reflection_applications() -> dict[str, Any]:
    """ASGI applications by the path they are mounted at."""
    files = [_described(inference_pb2.DESCRIPTOR), _described(health_pb2.DESCRIPTOR)]
    return {
        V1: ServerReflectionASGIApplication(ServerReflectionService(*files)),
        V1ALPHA: ServerReflectionAlphaASGIApplication(ServerReflectionAlphaService(*files)),
    }


def _described(file: FileDescriptor) -> Any:
    known = {file.name: file} | {dependency.name: dependency for dependency in file.dependencies}

    def resolve(path: str) -> Any:
        found = known.get(path)
        return None if found is None else FileDescriptorProto.from_binary(found.serialized_pb)

    registry = create_file_registry(FileDescriptorProto.from_binary(file.serialized_pb), resolve)
    return registry.file(file.name)
