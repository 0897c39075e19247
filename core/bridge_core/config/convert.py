"""What documents become in a snapshot."""

from __future__ import annotations

from bridge_core.config.documents import MeshSpec, ModelRouteDocument
from bridge_core.snapshot import Backend, MeshSettings, Route, RoutePolicy


def mesh_settings(
    spec: MeshSpec | None, trust_domain: str, revoked_serials: tuple[str, ...] = ()
) -> MeshSettings:
    """The mesh's settings; the defaults of the schema without a Mesh document."""
    spec = spec or MeshSpec()
    return MeshSettings(
        trust_domain=trust_domain,
        lease_ttl_s=spec.lease_ttl,
        ring_points=spec.ring_points,
        certificate_ttl_s=spec.certificate_ttl,
        revoked_serials=revoked_serials,
        defaults=RoutePolicy(bounded_load=spec.bounded_load),
    )


def route(document: ModelRouteDocument) -> Route:
    """The route that `document` describes."""
    spec = document.spec
    return Route(
        name=document.metadata.name,
        backends=tuple(Backend(backend.model, backend.weight) for backend in spec.backends),
        policy=RoutePolicy(deadline_s=spec.deadline),
        fallback=spec.fallback,
    )
