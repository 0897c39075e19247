"""What documents become in a snapshot.

Policies are merged field by field, each by its own name: what a document gives stands over what was
there before. A field that one side renames is an error at once and no setting without effect.
"""

from __future__ import annotations

from typing import TypeVar

from bridge_core.attestation import AttestationPolicy, Enclave, Machine
from bridge_core.config.base import Strict
from bridge_core.config.documents import MeshSpec, ModelRouteDocument, NodeClassSpec
from bridge_core.config.route_spec import AdmissionSpec, BreakerSpec, OutlierSpec, PolicySpec, RetriesSpec
from bridge_core.config.security_spec import (
    AttestationPolicyDocument,
    AuditSpec,
    IdentityProviderDocument,
    ModelAccessPolicyDocument,
    QuotaDocument,
    SecuritySpec,
    SubjectSpec,
)
from bridge_core.config.signature_spec import ModelSignaturePolicyDocument
from bridge_core.model_signing.policies import ModelSignaturePolicy, Signer
from bridge_core.node_class import GpuSharing, IoLimit, Isolation, NodeClass, ResourceLimits
from bridge_core.policy.statements import AccessPolicy, Condition, Resource, Subject
from bridge_core.providers import IdentityProvider
from bridge_core.quotas import Quota
from bridge_core.security_settings import AuditSettings, SecuritySettings
from bridge_core.snapshot import Backend, MeshConfig, Route, RoutePolicy
from bridge_core.traffic import AdmissionPolicy, Breaker, Outlier, Retries

T = TypeVar("T")


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
        defaults=policy(RoutePolicy(), spec.defaults),
        security=_security(spec.security),
        audit=_audit(spec.audit),
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
        policy=policy(defaults or RoutePolicy(), spec),
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


def access_policy(document: ModelAccessPolicyDocument) -> AccessPolicy:
    """The policy that `document` describes."""
    spec = document.spec
    return AccessPolicy(
        document.metadata.name,
        _subjects(spec.subjects),
        tuple(Resource(tuple(one.kinds), tuple(one.names)) for one in spec.resources),
        tuple(spec.actions),
        tuple(Condition(one.key, one.operator, tuple(one.values)) for one in spec.conditions),
        spec.effect,
        spec.shadow,
    )


def signature_policy(document: ModelSignaturePolicyDocument) -> ModelSignaturePolicy:
    """The policy that `document` describes."""
    spec = document.spec
    return ModelSignaturePolicy(
        document.metadata.name,
        tuple(spec.models),
        tuple(
            Signer(one.name, one.public_key, one.authorities, tuple(one.identities)) for one in spec.signers
        ),
        spec.shadow,
    )


def quota(document: QuotaDocument) -> Quota:
    """The quota that `document` describes."""
    spec = document.spec
    return Quota(
        document.metadata.name,
        _subjects(spec.subjects),
        tuple(spec.models),
        spec.window,
        spec.per,
        spec.requests,
        spec.prompt_tokens,
        spec.output_tokens,
        spec.concurrency,
        spec.shadow,
    )


def identity_provider(document: IdentityProviderDocument, keys: str = "") -> IdentityProvider:
    """The provider that `document` describes, with the key set that was fetched where it names an address."""
    spec = document.spec
    return IdentityProvider(
        document.metadata.name,
        spec.issuer,
        tuple(spec.audiences),
        tuple(spec.algorithms),
        keys if spec.jwks is None else spec.jwks,
        spec.claims.subject,
        spec.claims.groups,
        spec.claims.attributes,
        spec.kubernetes,
    )


def attestation_policy(document: AttestationPolicyDocument) -> AttestationPolicy:
    """The policy that `document` describes."""
    spec = document.spec
    return AttestationPolicy(
        document.metadata.name,
        tuple(
            Enclave(one.mr_enclave or "", one.mr_signer or "", one.product, one.version) for one in spec.sgx
        ),
        tuple(
            Machine(one.mr_td, one.rt_mr0 or "", one.rt_mr1 or "", one.rt_mr2 or "", one.rt_mr3 or "")
            for one in spec.tdx
        ),
        tuple(spec.tcb),
    )


def _subjects(specs: list[SubjectSpec]) -> tuple[Subject, ...]:
    return tuple(Subject(one.kind, one.name) for one in specs)


def _security(spec: SecuritySpec) -> SecuritySettings:
    return SecuritySettings(spec.default_effect, spec.local_listener, spec.renewal_grace)


def _audit(spec: AuditSpec) -> AuditSettings:
    return AuditSettings(
        spec.retention,
        spec.cosigners,
        spec.on_full_disk,
        spec.content,
        spec.key_period,
        spec.timestamp_authority,
        spec.sealed,
    )


def policy(base: RoutePolicy, spec: PolicySpec) -> RoutePolicy:
    """`base` with what a document gives in its place."""
    return RoutePolicy(
        strategy=_given(spec, "strategy", base.strategy),
        affinity=_given(spec, "affinity", base.affinity),
        bounded_load=_given(spec, "bounded_load", base.bounded_load),
        retries=_retries(base.retries, spec.retries),
        deadline_s=_given(spec, "deadline", base.deadline_s),
        hedge_after_s=_given(spec, "hedge_after", base.hedge_after_s),
        outlier=_outlier(base.outlier, spec.outlier),
        breaker=_breaker(base.breaker, spec.breaker),
        admission=_admission(base.admission, spec.admission),
        slow_start_s=_given(spec, "slow_start", base.slow_start_s),
        keep_alive_bytes_s=_given(spec, "keep_alive_bytes", base.keep_alive_bytes_s),
    )


def _retries(base: Retries, spec: RetriesSpec) -> Retries:
    return Retries(
        attempts=_given(spec, "attempts", base.attempts),
        per_try_timeout_s=_given(spec, "per_try_timeout", base.per_try_timeout_s),
        budget=_given(spec, "budget", base.budget),
        budget_floor=_given(spec, "budget_floor", base.budget_floor),
    )


def _outlier(base: Outlier, spec: OutlierSpec) -> Outlier:
    return Outlier(
        consecutive_failures=_given(spec, "consecutive_failures", base.consecutive_failures),
        base_ejection_s=_given(spec, "base_ejection", base.base_ejection_s),
        max_ejection_s=_given(spec, "max_ejection", base.max_ejection_s),
        max_ejected=_given(spec, "max_ejected", base.max_ejected),
        panic_threshold=_given(spec, "panic_threshold", base.panic_threshold),
        success_rate=_given(spec, "success_rate", base.success_rate),
    )


def _breaker(base: Breaker, spec: BreakerSpec) -> Breaker:
    return Breaker(
        failure_share=_given(spec, "failure_share", base.failure_share),
        min_requests=_given(spec, "min_requests", base.min_requests),
        window_s=_given(spec, "window", base.window_s),
        open_s=_given(spec, "open", base.open_s),
    )


def _admission(base: AdmissionPolicy, spec: AdmissionSpec) -> AdmissionPolicy:
    return AdmissionPolicy(
        queue_per_slot=_given(spec, "queue_per_slot", base.queue_per_slot),
        max_wait_s=_given(spec, "max_wait", base.max_wait_s),
    )


def _given(spec: Strict, field: str, otherwise: T) -> T:
    """What a document gives for a field, which the schema has; `otherwise` where it says nothing."""
    if field not in type(spec).model_fields:
        raise AttributeError(f"{type(spec).__name__} has no field {field}")
    value: T = getattr(spec, field) if field in spec.model_fields_set else otherwise
    return value
