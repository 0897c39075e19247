"""What documents become in a snapshot."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from bridge_core.config.base import Strict
from bridge_core.config.documents import MeshSpec, ModelRouteDocument, NodeClassSpec
from bridge_core.node_class import GpuSharing, IoLimit, Isolation, NodeClass, ResourceLimits
from bridge_core.snapshot import Backend, MeshConfig, Route, RoutePolicy

S = TypeVar("S", bound=msgspec.Struct)


def mesh_settings(
    spec: MeshSpec | None, trust_domain: str, revoked_serials: tuple[str, ...] = ()
) -> MeshConfig:
    """The mesh's settings; the defaults of the schema without a Mesh document."""
    spec = spec or MeshSpec()
    return MeshConfig(
        trust_domain=trust_domain,
        lease_ttl_s=spec.lease_ttl,
        ring_points=spec.ring_points,
        certificate_ttl_s=spec.certificate_ttl,
        revoked_serials=revoked_serials,
        defaults=over(RoutePolicy(), spec.defaults),
    )


def route(document: ModelRouteDocument, defaults: RoutePolicy | None = None) -> Route:
    """The route that `document` describes in a mesh with these defaults."""
    spec = document.spec
    return Route(
        name=document.metadata.name,
        backends=tuple(
            Backend(
                backend.model,
                backend.weight,
                backend.name or "",
                backend.node_labels,
                tuple(backend.instances),
            )
            for backend in spec.backends
        ),
        policy=over(defaults or RoutePolicy(), spec),
        fallback=spec.fallback,
    )


def node_class(name: str, spec: NodeClassSpec) -> NodeClass:
    """The NodeClass that a document of this name and spec describes."""
    limits, isolation, gpu = spec.limits, spec.isolation, spec.gpu
    return NodeClass(
        name,
        spec.node_labels,
        ResourceLimits(
            limits.memory_max,
            limits.memory_high,
            limits.swap_max,
            limits.cpu_weight,
            limits.cpu_max,
            limits.cpuset,
            limits.pids_max,
            tuple(
                IoLimit(io.path, io.read_per_second, io.write_per_second, io.read_iops, io.write_iops)
                for io in limits.io
            ),
            limits.disk_max,
        ),
        Isolation(
            None if isolation.walls is None else tuple(isolation.walls),
            tuple(isolation.require),
            isolation.uid,
            isolation.gid,
            isolation.tmp_size,
        ),
        None
        if gpu is None
        else GpuSharing(tuple(gpu.devices), gpu.per_gpu, gpu.mps, gpu.thread_percentage, gpu.memory),
    )


def over(base: S, spec: Strict) -> S:
    """`base` with what was given in `spec`; durations end in _s there."""
    changes: dict[str, Any] = {}
    for name in spec.model_fields_set:
        field = name if name in base.__struct_fields__ else f"{name}_s"
        if field not in base.__struct_fields__:
            continue  # not of the policy: backends, fallback
        value = getattr(spec, name)
        changes[field] = over(getattr(base, field), value) if isinstance(value, Strict) else value
    return msgspec.structs.replace(base, **changes)
