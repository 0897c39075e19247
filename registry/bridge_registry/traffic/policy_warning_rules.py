"""What policies say and may not mean: pure. A warning is no fault: clients, models and nodes come later."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import msgspec

from bridge_core.clients import Client
from bridge_core.config.documents import (
    AnyDocument,
    IdentityProviderDocument,
    MeshDocument,
    ModelAccessPolicyDocument,
    ModelRouteDocument,
)
from bridge_core.config.security_spec import ModelAccessPolicySpec, SubjectSpec
from bridge_core.names import canonical_or_same
from bridge_core.policy.conditions import NODE, OF_REQUEST
from bridge_core.policy.globs import ANY
from bridge_core.policy.resources import is_pattern
from bridge_core.snapshot import Instance
from bridge_core.spelling import nearest

_CLOSING: Final = frozenset({"predict", "embed", "*"})


class There(msgspec.Struct, frozen=True):
    """What the mesh has at present.

    Attributes:
        members: Instances with their models.
        nodes: Names of nodes.
        clients: By name.
        admins: Names of admins.
    """

    members: Iterable[Instance]
    nodes: Collection[str]
    clients: Mapping[str, Client]
    admins: Collection[str]


def suspect_policies(
    changed: Iterable[AnyDocument], in_force: Iterable[AnyDocument], there: There
) -> tuple[str, ...]:
    """What of the changed documents may not be what was meant, with all that will be in force."""
    in_force = tuple(in_force)
    providers = {one.metadata.name: one for one in in_force if isinstance(one, IdentityProviderDocument)}
    models = {canonical_or_same(model.name) for one in there.members for model in one.models}
    models |= {
        canonical_or_same(one.metadata.name) for one in in_force if isinstance(one, ModelRouteDocument)
    }
    mesh = next((one for one in in_force if isinstance(one, MeshDocument)), None)
    allows = mesh is None or mesh.spec.security.default_effect == "Allow"
    found: list[str] = []
    for document in changed:
        if isinstance(document, ModelAccessPolicyDocument):
            spec, start = document.spec, f"policy {document.metadata.name}: "
            found += [start + one for subject in spec.subjects for one in _subject(subject, there, providers)]
            found += [start + one for one in _resources(spec, models, there.nodes)]
            found += [start + one for one in _conditions(spec)]
            if allows and _closes_all(spec):
                found.append(f"{start}it closes every model to all whom no policy allows to use it")
        elif isinstance(document, MeshDocument):
            found += _mesh(document)
    return tuple(found)


def _subject(
    subject: SubjectSpec, there: There, providers: Mapping[str, IdentityProviderDocument]
) -> Iterator[str]:
    name, provider = subject.name, subject.name.partition("#")[0]
    if ANY in name:
        return
    if subject.kind == "Group":
        by_claims = any(one.spec.claims.groups for one in providers.values())
        if not by_claims and not any(name in client.groups for client in there.clients.values()):
            yield f"nobody belongs to the group {name}"
    elif subject.kind == "Node":
        if name not in there.nodes:
            yield f"there is no node {name}"
    elif "#" in name:
        if provider not in providers:
            yield f"there is no IdentityProvider {provider}"
        elif subject.kind == "ServiceAccount" and not providers[provider].spec.kubernetes:
            yield f"the IdentityProvider {provider} is not of Kubernetes: it has no service accounts"
    elif name not in there.clients and name not in there.admins:
        yield f"there is no client or admin {name}"


def _resources(spec: ModelAccessPolicySpec, models: Collection[str], nodes: Collection[str]) -> Iterator[str]:
    for resource in spec.resources:
        for name in resource.names:
            if is_pattern(name):
                continue
            is_model = "Model" in resource.kinds and canonical_or_same(name) in models
            if is_model or ("Node" in resource.kinds and name in nodes):
                continue
            if "Model" in resource.kinds:
                yield f"no node has the model {name}, and no route is called so"
            else:
                yield f"there is no node {name}"


def _conditions(spec: ModelAccessPolicySpec) -> Iterator[str]:
    for one in spec.conditions:
        if one.key in OF_REQUEST or one.key.startswith(NODE):
            continue
        meant = nearest(one.key, OF_REQUEST)
        if meant:
            yield f"{one.key} is taken for an attribute of the subject: did you mean {meant}?"


def _closes_all(spec: ModelAccessPolicySpec) -> bool:
    closes = spec.effect == "Allow" and not spec.shadow and not _CLOSING.isdisjoint(spec.actions)
    return closes and any("Model" in one.kinds and ANY in one.names for one in spec.resources)


def _mesh(document: MeshDocument) -> Iterator[str]:
    security = document.spec.security
    if security.default_effect == "Deny" and security.local_listener == "open":
        yield (
            "mesh: defaultEffect is Deny, and programs on nodes may use every model all the same: "
            "localListener: policy would change that"
        )
