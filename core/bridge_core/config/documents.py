"""The kinds of mesh_config and their schemas.

A kind is added by a spec class here, its conversion in `convert`, and what checks it against other
documents in `cross_checks`.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec
from pydantic import Field

from bridge_core.config.alert_spec import AlertReceiverDocument, AlertRuleDocument
from bridge_core.config.autoscale_spec import AutoscalePolicyDocument
from bridge_core.config.base import Duration, Metadata, Strict
from bridge_core.config.node_class_spec import NodeClassDocument, NodeClassSpec
from bridge_core.config.rollout_spec import RolloutDocument, RolloutSpec
from bridge_core.config.route_spec import ModelRouteDocument, ModelRouteSpec, PolicySpec
from bridge_core.config.security_spec import (
    AttestationPolicyDocument,
    AuditSpec,
    IdentityProviderDocument,
    ModelAccessPolicyDocument,
    QuotaDocument,
    SecuritySpec,
)
from bridge_core.config.signature_spec import ModelSignaturePolicyDocument

__all__ = [
    "API_VERSION",
    "MODELS",
    "SECURITY_API_VERSION",
    "SECURITY_KINDS",
    "AlertReceiverDocument",
    "AlertRuleDocument",
    "AnyDocument",
    "AttestationPolicyDocument",
    "AutoscalePolicyDocument",
    "Document",
    "Fault",
    "IdentityProviderDocument",
    "Kind",
    "MeshDocument",
    "MeshSpec",
    "ModelAccessPolicyDocument",
    "ModelRouteDocument",
    "ModelRouteSpec",
    "ModelSignaturePolicyDocument",
    "NodeClassDocument",
    "NodeClassSpec",
    "QuotaDocument",
    "RolloutDocument",
    "RolloutSpec",
    "line_at",
]

API_VERSION: Final = "bridge.deepseek.io/v1"
SECURITY_API_VERSION: Final = "security.deepseek.io/v1"

Kind: TypeAlias = Literal[
    "Mesh",
    "ModelRoute",
    "Rollout",
    "NodeClass",
    "ModelAccessPolicy",
    "ModelSignaturePolicy",
    "Quota",
    "IdentityProvider",
    "AttestationPolicy",
    "AutoscalePolicy",
    "AlertRule",
    "AlertReceiver",
]
SECURITY_KINDS: Final = frozenset(
    {"ModelAccessPolicy", "ModelSignaturePolicy", "IdentityProvider", "AttestationPolicy"}
)


class MeshSpec(Strict):
    """Mesh-wide settings. One document of this kind, named `mesh`."""

    trust_domain: str | None = Field(
        default=None,
        max_length=255,
        description="The mesh's name in every identity. Fixed at init: a check, no setting.",
    )
    lease_ttl: Duration = Field(
        default=5.0, ge=1.0, le=300.0, description="How long a silent instance stays on the ring (1s–300s)."
    )
    ring_points: int = Field(
        default=160, ge=4, le=4096, multiple_of=4, description="Points of an instance of weight 100."
    )
    certificate_ttl: Duration = Field(
        default=86_400.0, ge=300.0, le=2_592_000.0, description="Life of a node's certificate (5m–30d)."
    )
    defaults: PolicySpec = Field(
        default=PolicySpec(), description="For models without a route, and where a route says nothing."
    )
    security: SecuritySpec = SecuritySpec()
    audit: AuditSpec = AuditSpec()


class MeshDocument(Strict):
    """apiVersion, kind, metadata and spec of a Mesh."""

    api_version: Literal["bridge.deepseek.io/v1"]
    kind: Literal["Mesh"]
    metadata: Metadata
    spec: MeshSpec


AnyDocument: TypeAlias = (
    MeshDocument
    | ModelRouteDocument
    | RolloutDocument
    | NodeClassDocument
    | ModelAccessPolicyDocument
    | ModelSignaturePolicyDocument
    | QuotaDocument
    | IdentityProviderDocument
    | AttestationPolicyDocument
    | AutoscalePolicyDocument
    | AlertRuleDocument
    | AlertReceiverDocument
)
MODELS: Final[dict[str, type[AnyDocument]]] = {
    "Mesh": MeshDocument,
    "ModelRoute": ModelRouteDocument,
    "Rollout": RolloutDocument,
    "NodeClass": NodeClassDocument,
    "ModelAccessPolicy": ModelAccessPolicyDocument,
    "ModelSignaturePolicy": ModelSignaturePolicyDocument,
    "Quota": QuotaDocument,
    "IdentityProvider": IdentityProviderDocument,
    "AttestationPolicy": AttestationPolicyDocument,
    "AutoscalePolicy": AutoscalePolicyDocument,
    "AlertRule": AlertRuleDocument,
    "AlertReceiver": AlertReceiverDocument,
}


class Fault(msgspec.Struct, frozen=True, order=True):
    """What is wrong, and where.

    Attributes:
        file: As named by whoever sent it.
        line: From 1.
        path: Dotted path in the document, e.g. `spec.backends[1].weight`; may be empty.
        message: One sentence without a period.
    """

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}: {where}{self.message}"


class Document(msgspec.Struct, frozen=True):
    """A valid document and where it came from."""

    parsed: AnyDocument
    file: str
    line: int
    text: str
    lines: dict[str, int]

    @property
    def kind(self) -> str:
        """Its kind."""
        return self.parsed.kind

    @property
    def name(self) -> str:
        """Its name as written."""
        return self.parsed.metadata.name

    @property
    def key(self) -> str:
        """`<kind>/<name>`: its place among the applied documents."""
        return f"{self.kind}/{self.name}"

    def fault(self, path: str, message: str) -> Fault:
        """A fault of this document at `path`."""
        return Fault(self.file, line_at(self.lines, path, self.line), path, message)


def line_at(lines: dict[str, int], path: str, default: int) -> int:
    """The line of `path` or of the nearest thing around it."""
    while path:
        if path in lines:
            return lines[path]
        cut = max(path.rfind("."), path.rfind("["))
        path = path[:cut] if cut > 0 else ""
    return default
