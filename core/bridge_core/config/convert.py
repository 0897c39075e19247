"""What documents become in a snapshot."""

from __future__ import annotations

from bridge_core.config.documents import MeshSpec, ModelRouteDocument
from bridge_core.snapshot import Backend, MeshSettings, Route


def mesh_settings(
    spec: MeshSpec | None, trust_domain: str, revoked_serials: tuple[str, ...] = ()
) -> MeshSettings:
    """The mesh's settings; the defaults of the schema without a Mesh document."""
    spec = spec or MeshSpec()
    return MeshSettings(
        trust_domain=trust_domain,
        lease_ttl_s=spec.lease_ttl,
        ring_points=spec.ring_points,
        bounded_load=spec.bounded_load,
        certificate_ttl_s=spec.certificate_ttl,
        revoked_serials=revoked_serials,
    )


def route(document: ModelRouteDocument) -> Route:
    """The route that `document` describes."""
    spec = document.spec
    return Route(
        name=document.metadata.name,
        backends=tuple(Backend(backend.model, backend.weight) for backend in spec.backends),
        strategy=spec.strategy,
        affinity=spec.affinity,
        deadline_s=spec.deadline,
        fallback=spec.fallback,
    )
