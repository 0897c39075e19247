"""What a schema cannot say: rules within a route and between documents.

Rules:
1. Two documents of a kind have different names; routes' names are compared as models' are.
2. There is one Mesh, named `mesh`, of this mesh's trust domain.
3. A route's weights add up to more than nothing; no two backends have the same name, which is the
   model's where none is given.
4. A route does not lead to itself or to another route by a backend: a route's backends are models.
5. Following fallbacks from route to route never comes back.
6. A rollout is between two backends of a route, which has no other rollout; a route cannot lose a
   backend that a rollout names.
7. No two NodeClasses are for the same labels: of two that fit a node equally, one would be without
   effect. What else holds within one is in `node_class_checks`.
8. No two IdentityProviders have the same issuer. What else holds within one is in
   `identity_provider_checks`.
9. What holds within a ModelAccessPolicy is in `access_policy_checks`.
10. No two Quotas are about the same in the same window. What else holds within one is in `quota_checks`.
11. No two AutoscalePolicies are of the same model. What else holds within one is in `autoscale_checks`.
12. The receivers that an AlertRule names are there, and none goes that one still names. What else holds
    within them is in `alert_checks`.
13. What holds within a ModelSignaturePolicy is in `signature_checks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from bridge_core.config import (
    access_policy_checks,
    alert_checks,
    autoscale_checks,
    identity_provider_checks,
    node_class_checks,
    quota_checks,
    signature_checks,
)
from bridge_core.config.documents import (
    AlertReceiverDocument,
    AlertRuleDocument,
    AutoscalePolicyDocument,
    Document,
    Fault,
    IdentityProviderDocument,
    MeshDocument,
    ModelAccessPolicyDocument,
    ModelRouteDocument,
    ModelRouteSpec,
    ModelSignaturePolicyDocument,
    NodeClassDocument,
    QuotaDocument,
    RolloutDocument,
)
from bridge_core.names import InvalidName, canonical

MESH_NAME: Final = "mesh"


def cross_check(
    documents: Sequence[Document], beside: Sequence[Document], trust_domain: str | None
) -> list[Fault]:
    """Every fault of `documents`, together with those in force `beside` them."""
    faults = [*_duplicates(documents, beside)]
    routes: dict[str, Document] = {}
    for document in [*beside, *documents]:
        if document.kind == "ModelRoute" and (name := _canonical(document.name)) is not None:
            routes[name] = document
    for document in documents:
        if isinstance(document.parsed, MeshDocument):
            faults += _mesh(document, document.parsed, trust_domain)
        elif isinstance(document.parsed, ModelRouteDocument):
            faults += _route(document, document.parsed, routes)
        elif isinstance(document.parsed, RolloutDocument):
            faults += _rollout(document, document.parsed, routes)
        elif isinstance(document.parsed, NodeClassDocument):
            faults += _node_class(document, document.parsed, [*beside, *documents])
        elif isinstance(document.parsed, IdentityProviderDocument):
            faults += _identity_provider(document, document.parsed, [*beside, *documents])
        elif isinstance(document.parsed, QuotaDocument):
            faults += _quota(document, document.parsed, [*beside, *documents])
        elif isinstance(document.parsed, AutoscalePolicyDocument):
            faults += _autoscale(document, document.parsed, routes, [*beside, *documents])
        elif isinstance(document.parsed, AlertRuleDocument):
            faults += _alert_rule(document, document.parsed, [*beside, *documents])
        elif isinstance(document.parsed, AlertReceiverDocument):
            faults += _in_spec(document, alert_checks.receiver_faults(document.parsed.spec))
        elif isinstance(document.parsed, ModelAccessPolicyDocument):
            faults += _in_spec(document, access_policy_checks.faults(document.parsed.spec))
        elif isinstance(document.parsed, ModelSignaturePolicyDocument):
            faults += _in_spec(document, signature_checks.faults(document.parsed.spec))
    # An applied route may become wrong by a new one beside it; the new document is to blame.
    new = {document.key for document in documents}
    faults += [
        fault
        for document in documents
        if document.kind == "ModelRoute"
        for fault in _captured(document, [other for other in beside if other.key not in new])
    ]
    faults += _rollouts_together(documents, beside)
    return faults


def _duplicates(documents: Sequence[Document], beside: Sequence[Document]) -> Iterator[Fault]:
    seen: dict[tuple[str, str], Document] = {}
    for document in beside:
        seen[(document.kind, _comparable(document))] = document
    for document in documents:
        key = (document.kind, _comparable(document))
        if (first := seen.get(key)) is not None:
            where = f"{first.file}:{first.line}" if first in documents else "the applied config"
            yield document.fault("metadata.name", f"{document.kind} {document.name} is already in {where}")
        seen.setdefault(key, document)


def _comparable(document: Document) -> str:
    if document.kind == "ModelRoute":
        return _canonical(document.name) or document.name
    return document.name


def _mesh(document: Document, parsed: MeshDocument, trust_domain: str | None) -> Iterator[Fault]:
    if document.name != MESH_NAME:
        yield document.fault("metadata.name", f"a Mesh is named {MESH_NAME}, not {document.name!r}")
    named = parsed.spec.trust_domain
    if named is not None and trust_domain is not None and named != trust_domain:
        yield document.fault("spec.trustDomain", f"this mesh is {trust_domain}, which never changes")


def _route(document: Document, parsed: ModelRouteDocument, routes: dict[str, Document]) -> Iterator[Fault]:
    spec, own = parsed.spec, _canonical(document.name)
    if own is None:
        yield document.fault("metadata.name", f"{document.name!r} is not a model name")
    if sum(backend.weight for backend in spec.backends) == 0:
        yield document.fault("spec.backends", "all weights are 0: nothing would ever be chosen")
    seen = set[str]()
    for at, backend in enumerate(spec.backends):
        path, target = f"spec.backends[{at}].model", _canonical(backend.model)
        if target is None:
            yield document.fault(path, f"{backend.model!r} is not a model name")
        elif target == own:
            yield document.fault(path, "the route leads to itself")
        elif target in routes:
            yield document.fault(path, f"{backend.model} is a route: a backend is a model")
        # What tells backends apart is the name, else the model as it is written: the split draws by it.
        keys = {backend.key, backend.name or target or backend.model}
        if keys & seen:
            hint = "add up the weights, or give it another name"
            yield document.fault(path, f"{backend.key} is there twice: {hint}")
        seen |= keys
    yield from _fallback(document, spec, own, routes)


def _fallback(
    document: Document, spec: ModelRouteSpec, own: str | None, routes: dict[str, Document]
) -> Iterator[Fault]:
    if spec.fallback is None:
        return
    target = _canonical(spec.fallback)
    if target is None:
        yield document.fault("spec.fallback", f"{spec.fallback!r} is not a model name")
        return
    trail, seen = [document.name], set[str]()
    while target is not None and target not in seen:
        if target == own:
            yield document.fault(
                "spec.fallback", f"fallbacks go round: {' -> '.join([*trail, document.name])}"
            )
            return
        seen.add(target)
        following = routes.get(target)
        if following is None or not isinstance(following.parsed, ModelRouteDocument):
            return
        trail.append(following.name)
        further = following.parsed.spec.fallback
        target = _canonical(further) if further is not None else None


def _captured(document: Document, others: Sequence[Document]) -> Iterator[Fault]:
    own = _canonical(document.name)
    for other in others:
        if not isinstance(other.parsed, ModelRouteDocument):
            continue
        if any(_canonical(backend.model) == own for backend in other.parsed.spec.backends):
            yield document.fault(
                "metadata.name", f"the applied route {other.name} has {document.name} as a backend"
            )


def _rollout(document: Document, parsed: RolloutDocument, routes: dict[str, Document]) -> Iterator[Fault]:
    spec = parsed.spec
    if spec.stable == spec.canary:
        yield document.fault("spec.canary", "stable and canary are the same backend")
    target = routes.get(_canonical(spec.route) or "")
    if target is None or not isinstance(target.parsed, ModelRouteDocument):
        yield document.fault("spec.route", f"there is no ModelRoute {spec.route}")
        return
    if target.name != spec.route:
        yield document.fault("spec.route", f"write it as its document does: {target.name}")
    backends = {backend.key: backend for backend in target.parsed.spec.backends}
    for side in ("stable", "canary"):
        if getattr(spec, side) not in backends:
            known = ", ".join(backends)
            yield document.fault(
                f"spec.{side}", f"{getattr(spec, side)} is no backend of {spec.route}: one of {known}"
            )
    if not sum(backends[key].weight for key in (spec.stable, spec.canary) if key in backends):
        yield document.fault("spec.route", "both backends have the weight 0: there is nothing to move")


def _rollouts_together(documents: Sequence[Document], beside: Sequence[Document]) -> Iterator[Fault]:
    new = {document.key for document in documents}
    taken: dict[str, str] = {}
    kept = [other for other in beside if other.key not in new]
    for document in [*kept, *documents]:
        if not isinstance(document.parsed, RolloutDocument):
            continue
        route = _canonical(document.parsed.spec.route) or document.parsed.spec.route
        if route in taken and document.key in new:
            yield document.fault("spec.route", f"the rollout {taken[route]} is already on this route")
        taken.setdefault(route, document.name)
    changed = {_canonical(one.name): one for one in documents if isinstance(one.parsed, ModelRouteDocument)}
    for rollout in kept:
        if not isinstance(rollout.parsed, RolloutDocument):
            continue
        spec = rollout.parsed.spec
        route_document = changed.get(_canonical(spec.route))
        if route_document is None or not isinstance(route_document.parsed, ModelRouteDocument):
            continue
        keys = {backend.key for backend in route_document.parsed.spec.backends}
        for gone in [key for key in (spec.stable, spec.canary) if key not in keys]:
            yield route_document.fault("spec.backends", f"the applied rollout {rollout.name} needs {gone}")


def _node_class(
    document: Document, parsed: NodeClassDocument, everything: Sequence[Document]
) -> Iterator[Fault]:
    yield from _in_spec(document, node_class_checks.faults(parsed.spec))
    for other in everything:
        if other.key == document.key or not isinstance(other.parsed, NodeClassDocument):
            continue
        if other.parsed.spec.node_labels == parsed.spec.node_labels:
            labels = ", ".join(f"{name}={value}" for name, value in parsed.spec.node_labels.items())
            yield document.fault(
                "spec.nodeLabels",
                f"{other.name} is for {labels or 'every node'} already: one would not count",
            )


def _identity_provider(
    document: Document, parsed: IdentityProviderDocument, everything: Sequence[Document]
) -> Iterator[Fault]:
    if fault := identity_provider_checks.name_fault(document.name):
        yield document.fault("metadata.name", fault)
    yield from _in_spec(document, identity_provider_checks.faults(parsed.spec))
    for other in everything:
        if other.key == document.key or not isinstance(other.parsed, IdentityProviderDocument):
            continue
        if other.parsed.spec.issuer == parsed.spec.issuer:
            yield document.fault("spec.issuer", f"is that of {other.name} already: a token names one")


def _quota(document: Document, parsed: QuotaDocument, everything: Sequence[Document]) -> Iterator[Fault]:
    yield from _in_spec(document, quota_checks.faults(parsed.spec))
    others = [
        (other.name, other.parsed.spec)
        for other in everything
        if other.key != document.key and isinstance(other.parsed, QuotaDocument)
    ]
    if other := quota_checks.same(parsed.spec, others):
        yield document.fault("spec", f"{other} is about the same in the same window: put both into one")


def _autoscale(
    document: Document,
    parsed: AutoscalePolicyDocument,
    routes: dict[str, Document],
    everything: Sequence[Document],
) -> Iterator[Fault]:
    yield from _in_spec(document, autoscale_checks.faults(parsed.spec, routes.keys()))
    others = {
        other.name: other.parsed.spec
        for other in everything
        if other.key != document.key and isinstance(other.parsed, AutoscalePolicyDocument)
    }
    if other := autoscale_checks.same(parsed.spec, others):
        yield document.fault("spec.model", f"{parsed.spec.model} has the policy {other} already")


def _alert_rule(
    document: Document, parsed: AlertRuleDocument, everything: Sequence[Document]
) -> Iterator[Fault]:
    receivers = {one.name for one in everything if isinstance(one.parsed, AlertReceiverDocument)}
    yield from _in_spec(document, alert_checks.rule_faults(parsed.spec, receivers))


def _in_spec(document: Document, found: Iterable[tuple[str, str]]) -> Iterator[Fault]:
    """What a kind's own checks found: the path below `spec`, empty for all of it, and a sentence."""
    for path, message in found:
        yield document.fault(f"spec.{path}" if path else "spec", message)


def _canonical(name: str) -> str | None:
    try:
        return canonical(name)
    except InvalidName:
        return None
