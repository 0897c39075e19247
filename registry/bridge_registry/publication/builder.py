"""Snapshots out of the table: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from bridge_core.addresses import can_be_dialled
from bridge_core.bounds import MAX_PLACES
from bridge_core.clients import Admin, Client
from bridge_core.config import (
    access_policy,
    identity_provider,
    mesh_settings,
    node_class,
    quota,
    route,
    signature_policy,
)
from bridge_core.config.documents import (
    IdentityProviderDocument,
    MeshSpec,
    ModelAccessPolicyDocument,
    ModelRouteDocument,
    ModelSignaturePolicyDocument,
    NodeClassDocument,
    QuotaDocument,
)
from bridge_core.names import canonical_or_same
from bridge_core.security_settings import Trust
from bridge_core.snapshot import (
    MESH_KEY,
    Instance,
    Node,
    Route,
    SnapshotRejected,
    Version,
    check_entry,
    encode_entry,
)
from bridge_core.verdicts import Verdict
from bridge_registry.enrolment.authority_rules import Authorities
from bridge_registry.key_sets.refresh_rules import keys_for
from bridge_registry.records import Candidate, KeySetRecord, NodeRecord
from bridge_registry.rollouts.effect_rules import probes, route_under
from bridge_registry.rollouts.plan import RolloutPlan
from bridge_registry.rollouts.rollout_rules import RolloutPosition
from bridge_registry.scaling.plan import ScalingPlan, ScalingPosition, holders_of


class SecurityDocuments(msgspec.Struct, frozen=True):
    """Who may what: clients, admins, policies, quotas, and issuers of tokens with their key sets."""

    clients: Iterable[Client] = ()
    admins: Iterable[Admin] = ()
    policies: Iterable[ModelAccessPolicyDocument] = ()
    signatures: Iterable[ModelSignaturePolicyDocument] = ()
    quotas: Iterable[QuotaDocument] = ()
    providers: Iterable[IdentityProviderDocument] = ()
    key_sets: Mapping[str, KeySetRecord] = {}

    def entries(self) -> dict[str, bytes]:
        """Their entries of a snapshot."""
        result = {f"client/{one.name}": encode_entry(one) for one in self.clients}
        result |= {f"admin/{one.name}": encode_entry(one) for one in self.admins}
        result |= {f"policy/{one.metadata.name}": encode_entry(access_policy(one)) for one in self.policies}
        result |= {
            f"signature/{one.metadata.name}": encode_entry(signature_policy(one)) for one in self.signatures
        }
        result |= {f"quota/{one.metadata.name}": encode_entry(quota(one)) for one in self.quotas}
        for one in self.providers:
            name = one.metadata.name
            fetched = keys_for(one.spec.jwks_uri, self.key_sets.get(name))
            result[f"provider/{name}"] = encode_entry(identity_provider(one, fetched))
        return result


NO_SECURITY: Final = SecurityDocuments()


def entries(
    *,
    trust_domain: str,
    store_id: str = "",
    spec: MeshSpec | None,
    routes: Iterable[ModelRouteDocument],
    nodes: Mapping[str, NodeRecord],
    members: Iterable[Instance],
    revoked: Iterable[str],
    rollouts: Iterable[tuple[RolloutPlan, RolloutPosition]] = (),
    node_classes: Iterable[NodeClassDocument] = (),
    registries: Iterable[Candidate] = (),
    security: SecurityDocuments = NO_SECURITY,
    scaled: Iterable[tuple[ScalingPlan, ScalingPosition]] = (),
    authorities: Authorities | None = None,
    verdicts: Iterable[Verdict] = (),
) -> dict[str, bytes]:
    """Every entry of the snapshot. An instance counts only on an enrolled node that is not revoked, and what
    there is to say against it only as long as it counts.
    """
    members = tuple(members)
    public = {node.name: node.public() for node in nodes.values()}
    registries = tuple(registries)
    settings = msgspec.structs.replace(
        mesh_settings(spec, trust_domain, tuple(sorted(revoked))),
        store_id=store_id,
        trust=_trust(authorities),
        registries=_dialled(one.address for one in registries),
        guards=_dialled(guard for one in registries for guard in one.guards),
    )
    result = {MESH_KEY: encode_entry(settings)}
    for name, node in public.items():
        result[f"node/{name}"] = encode_entry(node)
    moving = {canonical_or_same(plan.route): (plan, position) for plan, position in rollouts}
    for document in routes:
        made = route(document, settings.defaults)
        if (found := moving.get(canonical_or_same(made.name))) is not None:
            made, asked = _under(made, *found, members, public)
            result |= asked
        result[f"route/{document.metadata.name}"] = encode_entry(made)
    for one in node_classes:
        name = one.metadata.name
        result[f"nodeclass/{name}"] = encode_entry(node_class(name, one.spec))
    result |= security.entries()
    for scaling, standing in scaled:
        result[f"holders/{scaling.name}"] = encode_entry(holders_of(scaling, standing))
    for instance in members:
        home = nodes.get(instance.node)
        if home is not None and home.state != "revoked":
            result[f"instance/{instance.id}"] = encode_entry(instance)
    for verdict in verdicts:
        if f"instance/{verdict.instance}" in result:
            result[f"verdict/{verdict.instance}"] = encode_entry(verdict)
    return result


def _trust(authorities: Authorities | None) -> Trust:
    if authorities is None:
        return Trust()
    return Trust(
        tuple(authorities.roots.values()),
        tuple(one.certificate for one in authorities.issuers),
        authorities.issuing.pin,
    )


def _dialled(places: Iterable[str]) -> tuple[str, ...]:
    """Those that can be dialled, each once and in one order: a listener on any port names none."""
    return tuple(sorted({one for one in places if can_be_dialled(one)})[:MAX_PLACES])


def _under(
    made: Route,
    plan: RolloutPlan,
    position: RolloutPosition,
    members: tuple[Instance, ...],
    nodes: Mapping[str, Node],
) -> tuple[Route, dict[str, bytes]]:
    made = route_under(made, plan, position, members, nodes)
    return made, {key: encode_entry(probe) for key, probe in probes(plan, position, made).items()}


def checked(made: Mapping[str, bytes], last: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, str]]:
    """What of `made` every agent can take, and what is wrong with the rest, by key.

    One entry that agents refuse would keep them from the whole snapshot: such a one stays as it was
    published last, or out.
    """
    good, faults = dict(made), dict[str, str]()
    for key, raw in made.items():
        if last.get(key) == raw:
            continue
        try:
            check_entry(key, raw)
        except SnapshotRejected as fault:
            faults[key] = fault.message
            del good[key]
            if key in last:
                good[key] = last[key]
    return good, faults


def next_version(last: Version, epoch: int, revision: int) -> Version:
    """The version of a snapshot that differs from that of version `last`.

    It is (epoch, revision) unless that does not go up: something changed without a revision of its
    own (a period of grace ended), or the store was restored to an older state.
    """
    version = Version(epoch, revision)
    return version if version > last else Version(last.epoch, last.revision + 1)
