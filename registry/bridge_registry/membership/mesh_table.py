"""Everything that snapshots are made of, reduced from the store's watch events.

One task owns a table and feeds it; others read it between its steps. A record that does not decode
is left out and kept in `faults`; of a config document the last good text stays in force.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from bridge_core import keyspace
from bridge_core.bounds import MAX_INSTANCES, MAX_MEMBER_BYTES
from bridge_core.config import load
from bridge_core.config.documents import (
    AlertReceiverDocument,
    AlertRuleDocument,
    AnyDocument,
    AutoscalePolicyDocument,
    IdentityProviderDocument,
    MeshDocument,
    MeshSpec,
    ModelAccessPolicyDocument,
    ModelRouteDocument,
    ModelSignaturePolicyDocument,
    NodeClassDocument,
    QuotaDocument,
    RolloutDocument,
)
from bridge_core.snapshot import Instance
from bridge_core.store.api import Deleted, KeyListing, KeyValue, WatchEvent
from bridge_registry.enrolment.authority_rules import Authorities
from bridge_registry.membership.membership_rules import Membership
from bridge_registry.records import (
    AdminRecord,
    Candidate,
    ClientRecord,
    ConfigRecord,
    KeySetRecord,
    NodeRecord,
    RecordFault,
    SerialRecord,
    decode,
    decode_authorities,
    unpack,
)
from bridge_registry.rollouts.plan import RolloutPlan, plan_of
from bridge_registry.rollouts.rollout_rules import RolloutPosition
from bridge_registry.scaling.plan import ScalingPlan, ScalingPosition
from bridge_registry.scaling.plan import plan_of as scaling_plan_of

T = TypeVar("T", bound=msgspec.Struct)
D = TypeVar("D", bound=AnyDocument)

MAX_FAULTS: Final = 1000
_NUMBERS: Final = frozenset(map(str, range(MAX_INSTANCES)))


class MeshTable:
    """The mesh as the store last told it.

    Args:
        remembered: Members of the last snapshot, from before this registry began.
        ttl_s: The lease TTL until the config says otherwise.

    Attributes:
        revision: Of the newest event; 0 until the first listing.
        nodes: Enrolled nodes by name.
        revoked: Revoked certificates by serial.
        clients: Clients by name.
        admins: Those on record by name, also those who were deleted.
        sealed: The mesh's secrets by name, as they lie in the store.
        key_sets: Key sets that were fetched for identity providers, by the provider's name.
        documents: Applied config, "<kind>/<name>" to what it says.
        texts: The same as YAML.
        created: The same as the number of the config's revision since which it has been there.
        positions: Where each rollout stands, and the revision that says so, by its name.
        scaling: Where each AutoscalePolicy stands, and the revision that says so, by its name.
        authorities: The mesh's CAs; None: not read yet.
        guards: Keys of the store guards that live.
        unguarded_since: Monotonic time since which none does; None: one does, or nothing was listed yet.
        candidates: Registries that live, by the key of their candidacy.
        records: Every record that lasts, by key, as it was written.
        faults: Key to what is wrong with what is stored there; `MAX_FAULTS` at most.
    """

    def __init__(self, remembered: Iterable[Instance], *, ttl_s: float = 5.0) -> None:
        self.revision = 0
        self.membership = Membership(ttl_s, remembered)
        self.nodes: dict[str, NodeRecord] = {}
        self.revoked: dict[str, SerialRecord] = {}
        self.clients: dict[str, ClientRecord] = {}
        self.admins: dict[str, AdminRecord] = {}
        self.sealed: dict[str, bytes] = {}
        self.key_sets: dict[str, KeySetRecord] = {}
        self.documents: dict[str, AnyDocument] = {}
        self.texts: dict[str, str] = {}
        self.created: dict[str, int] = {}
        self.positions: dict[str, tuple[RolloutPosition, int]] = {}
        self.scaling: dict[str, tuple[ScalingPosition, int]] = {}
        self.authorities: Authorities | None = None
        self.guards: set[str] = set()
        self.unguarded_since: float | None = None
        self.candidates: dict[str, Candidate] = {}
        self.records: dict[str, bytes] = {}
        self.faults: dict[str, str] = {}
        self._member_sizes: dict[str, dict[str, int]] = {}

    @property
    def mesh_spec(self) -> MeshSpec | None:
        """What the Mesh document says."""
        document = self.documents.get("Mesh/mesh")
        return document.spec if isinstance(document, MeshDocument) else None

    @property
    def routes(self) -> list[ModelRouteDocument]:
        """Every applied route."""
        return self._applied(ModelRouteDocument)

    @property
    def node_classes(self) -> list[NodeClassDocument]:
        """Every applied NodeClass."""
        return self._applied(NodeClassDocument)

    @property
    def policies(self) -> list[ModelAccessPolicyDocument]:
        """Every applied ModelAccessPolicy."""
        return self._applied(ModelAccessPolicyDocument)

    @property
    def signature_policies(self) -> list[ModelSignaturePolicyDocument]:
        """Every applied ModelSignaturePolicy."""
        return self._applied(ModelSignaturePolicyDocument)

    @property
    def quotas(self) -> list[QuotaDocument]:
        """Every applied Quota."""
        return self._applied(QuotaDocument)

    @property
    def providers(self) -> list[IdentityProviderDocument]:
        """Every applied IdentityProvider."""
        return self._applied(IdentityProviderDocument)

    @property
    def alert_rules(self) -> list[AlertRuleDocument]:
        """Every applied AlertRule."""
        return self._applied(AlertRuleDocument)

    @property
    def alert_receivers(self) -> list[AlertReceiverDocument]:
        """Every applied AlertReceiver."""
        return self._applied(AlertReceiverDocument)

    def _applied(self, kind: type[D]) -> list[D]:
        return [document for document in self.documents.values() if isinstance(document, kind)]

    @property
    def plans(self) -> list[RolloutPlan]:
        """Every applied rollout."""
        return [
            plan_of(one, self.created.get(key, 0))
            for key, one in self.documents.items()
            if isinstance(one, RolloutDocument)
        ]

    @property
    def rollouts(self) -> list[tuple[RolloutPlan, RolloutPosition]]:
        """Every applied rollout that has begun."""
        return [
            (plan, self.positions[plan.name][0])
            for plan in self.plans
            if plan.name in self.positions and self.positions[plan.name][0].identity == plan.identity
        ]

    @property
    def scaled(self) -> list[ScalingPlan]:
        """Every applied AutoscalePolicy."""
        return [scaling_plan_of(one) for one in self._applied(AutoscalePolicyDocument)]

    @property
    def scaled_positions(self) -> list[tuple[ScalingPlan, ScalingPosition]]:
        """Every applied AutoscalePolicy that stands somewhere; of one whose model was changed it is not
        said where the other one was.
        """
        found = ((plan, self.scaling.get(plan.name)) for plan in self.scaled)
        return [(plan, kept[0]) for plan, kept in found if kept is not None and kept[0].model == plan.model]

    def is_revoked(self, serial: str) -> bool:
        """Whether the certificate of this serial is no longer accepted."""
        return serial in self.revoked

    def remember(self, records: Mapping[str, bytes]) -> None:
        """Takes in what the store was last known to hold, until it is listed."""
        for key, raw in records.items():
            self._put(KeyValue(key, raw, 0, 0))

    def apply(self, event: WatchEvent, now: float) -> None:
        """Takes one event in, at monotonic time `now`."""
        if isinstance(event, KeyListing):
            self._replace(event, now)
        else:
            for change in event.events:
                if isinstance(change, Deleted):
                    self._delete(change.key, now)
                else:
                    self._put(change)
            self._note_guards(event.events, now)
        self.revision = event.revision
        if self.mesh_spec is not None:
            self.membership.ttl_s = self.mesh_spec.lease_ttl

    def _replace(self, listing: KeyListing, now: float) -> None:
        keys = {item.key for item in listing.items}
        self._set_guards({key for key in keys if key.startswith(keyspace.GUARDS)}, now)
        for prefix, held in (
            (keyspace.NODES, self.nodes),
            (keyspace.REVOKED, self.revoked),
            (keyspace.CLIENTS, self.clients),
            (keyspace.ADMINS, self.admins),
            (keyspace.SECRETS, self.sealed),
            (keyspace.KEY_SETS, self.key_sets),
            (keyspace.ROLLOUTS, self.positions),
            (keyspace.SCALING, self.scaling),
            (keyspace.LEADER, self.candidates),
        ):
            for name in [name for name in held if prefix + name not in keys]:
                self._delete(prefix + name, now)
        if keyspace.CONFIG not in keys:
            self._delete(keyspace.CONFIG, now)
        self.records = {key: raw for key, raw in self.records.items() if key in keys}
        self.faults = {key: fault for key, fault in self.faults.items() if _stored_at(key) in keys}
        self._member_sizes.clear()
        instances = []
        for item in listing.items:
            if item.key.startswith(keyspace.MEMBERS):
                if (instance := self._instance(item)) is not None:
                    instances.append(instance)
            else:
                self._put(item)
        self.membership.replace(instances, now)

    def _note_guards(self, events: Iterable[KeyValue | Deleted], now: float) -> None:
        guards = set(self.guards)
        for event in events:
            if event.key.startswith(keyspace.GUARDS):
                (guards.discard if isinstance(event, Deleted) else guards.add)(event.key)
        self._set_guards(guards, now)

    def _set_guards(self, guards: set[str], now: float) -> None:
        # Only a mesh that was seen to have some can be without.
        if self.guards and not guards:
            self.membership.cut_off(now)
        elif guards and not self.guards:
            self.membership.guarded_again(now)
        self.guards = guards
        since = now if self.unguarded_since is None else self.unguarded_since
        self.unguarded_since = None if guards else since

    def _put(self, item: KeyValue) -> None:
        self.faults.pop(item.key, None)
        if keyspace.is_lasting(item.key):
            self.records[item.key] = item.value
        if item.key.startswith(keyspace.MEMBERS):
            if (instance := self._instance(item)) is not None:
                self.membership.put(instance)
        elif item.key.startswith(keyspace.NODES):
            if (node := self._decoded(item, NodeRecord)) is not None:
                self.nodes[item.key.removeprefix(keyspace.NODES)] = node
        elif item.key.startswith(keyspace.REVOKED):
            if (serial := self._decoded(item, SerialRecord)) is not None:
                self.revoked[item.key.removeprefix(keyspace.REVOKED)] = serial
        elif item.key.startswith(keyspace.CLIENTS):
            if (client := self._decoded(item, ClientRecord)) is not None:
                self.clients[item.key.removeprefix(keyspace.CLIENTS)] = client
        elif item.key.startswith(keyspace.ADMINS):
            if (admin := self._decoded(item, AdminRecord)) is not None:
                self.admins[item.key.removeprefix(keyspace.ADMINS)] = admin
        elif item.key.startswith(keyspace.SECRETS):
            self.sealed[item.key.removeprefix(keyspace.SECRETS)] = item.value
        elif item.key.startswith(keyspace.KEY_SETS):
            if (keys := self._decoded(item, KeySetRecord)) is not None:
                self.key_sets[item.key.removeprefix(keyspace.KEY_SETS)] = keys
        elif item.key.startswith(keyspace.LEADER):
            if (registry := self._decoded(item, Candidate)) is not None:
                self.candidates[item.key.removeprefix(keyspace.LEADER)] = registry
        elif item.key == keyspace.CONFIG:
            self._put_config(item)
        elif item.key == keyspace.AUTHORITIES:
            self._put_authorities(item)
        elif item.key.startswith(keyspace.ROLLOUTS):
            self._put_position(item)
        elif item.key.startswith(keyspace.SCALING):
            self._put_scaling(item)

    def _delete(self, key: str, now: float) -> None:
        self.faults.pop(key, None)
        self.records.pop(key, None)
        if key.startswith(keyspace.MEMBERS):
            place = key.removeprefix(keyspace.MEMBERS)
            self._member_sizes.get(place.partition("/")[0], {}).pop(key, None)
            self.membership.delete(place, now)
        elif key.startswith(keyspace.NODES):
            self.nodes.pop(key.removeprefix(keyspace.NODES), None)
        elif key.startswith(keyspace.REVOKED):
            self.revoked.pop(key.removeprefix(keyspace.REVOKED), None)
        elif key.startswith(keyspace.ROLLOUTS):
            self.positions.pop(key.removeprefix(keyspace.ROLLOUTS), None)
        elif key.startswith(keyspace.SCALING):
            self.scaling.pop(key.removeprefix(keyspace.SCALING), None)
        elif key.startswith(keyspace.CLIENTS):
            self.clients.pop(key.removeprefix(keyspace.CLIENTS), None)
        elif key.startswith(keyspace.ADMINS):
            self.admins.pop(key.removeprefix(keyspace.ADMINS), None)
        elif key.startswith(keyspace.SECRETS):
            self.sealed.pop(key.removeprefix(keyspace.SECRETS), None)
        elif key.startswith(keyspace.KEY_SETS):
            self.key_sets.pop(key.removeprefix(keyspace.KEY_SETS), None)
        elif key.startswith(keyspace.LEADER):
            self.candidates.pop(key.removeprefix(keyspace.LEADER), None)
        elif key == keyspace.CONFIG:
            self._keep_documents(())

    def _put_config(self, item: KeyValue) -> None:
        config = self._unpacked(item)
        if config is None:
            return
        self._keep_documents(config.documents)
        for name, document in config.documents.items():
            if self.texts.get(name) != document.text:
                self._put_document(name, document.text)
            if name in self.texts:
                self.created[name] = document.born

    def _put_authorities(self, item: KeyValue) -> None:
        # Also of one that is damaged or gone the last good one stays: a mesh is never without.
        try:
            self.authorities = decode_authorities(item.value)
        except RecordFault as fault:
            self._fault(item.key, fault.message)

    def _put_document(self, name: str, text: str) -> None:
        key = f"{keyspace.CONFIG}/{name}"
        loaded = load([(name, text)], alone=True)
        if loaded.faults or len(loaded.documents) != 1 or loaded.documents[0].key != name:
            self._fault(key, "; ".join(map(str, loaded.faults)) or "not this one document")
            return
        self.faults.pop(key, None)
        self.documents[name] = loaded.documents[0].parsed
        self.texts[name] = text

    def _keep_documents(self, names: Collection[str]) -> None:
        for name in [name for name in self.texts if name not in names]:
            for held in (self.documents, self.texts, self.created):
                held.pop(name, None)
        self.faults = {
            key: fault
            for key, fault in self.faults.items()
            if _stored_at(key) == key or key.removeprefix(f"{keyspace.CONFIG}/") in names
        }

    def _unpacked(self, item: KeyValue) -> ConfigRecord | None:
        try:
            return unpack(item, ConfigRecord)
        except RecordFault as fault:
            self._fault(item.key, fault.message)
            return None

    def _put_position(self, item: KeyValue) -> None:
        position = self._decoded(item, RolloutPosition)
        if position is not None:
            self.positions[item.key.removeprefix(keyspace.ROLLOUTS)] = (position, item.mod_revision)

    def _put_scaling(self, item: KeyValue) -> None:
        position = self._decoded(item, ScalingPosition)
        if position is not None:
            self.scaling[item.key.removeprefix(keyspace.SCALING)] = (position, item.mod_revision)

    def _instance(self, item: KeyValue) -> Instance | None:
        instance = self._decoded(item, Instance)
        if instance is None:
            return None
        place = item.key.removeprefix(keyspace.MEMBERS)
        node, _, number = place.partition("/")
        # etcd lets a node write under its own prefix only; this keeps it from claiming more inside.
        if instance.id != place or instance.node != node:
            self._fault(item.key, f"names the instance {instance.id!r} of node {instance.node!r}")
        elif not self._has_room(node, item):
            self._fault(item.key, f"the node's records have more than {MAX_MEMBER_BYTES} bytes")
        elif number not in _NUMBERS:
            self._fault(item.key, f"an instance's number is one of 0 to {MAX_INSTANCES - 1}")
        else:
            return instance
        return None

    def _has_room(self, node: str, item: KeyValue) -> bool:
        """Whether the node's records, this one among them, are as small as they have to be."""
        sizes = self._member_sizes.setdefault(node, {})
        others = sum(sizes.values()) - sizes.pop(item.key, 0)
        if others + len(item.value) > MAX_MEMBER_BYTES:
            return False
        sizes[item.key] = len(item.value)
        return True

    def _decoded(self, item: KeyValue, kind: type[T]) -> T | None:
        try:
            return decode(item, kind)
        except RecordFault as fault:
            self._fault(item.key, fault.message)
            return None

    def _fault(self, key: str, says: str) -> None:
        # Bounded: a node may write as many keys under its prefix as etcd has room for.
        if len(self.faults) < MAX_FAULTS:
            self.faults[key] = says


def _stored_at(key: str) -> str:
    """The key that a fault's key is about: documents are all in one."""
    return keyspace.CONFIG if key.startswith(f"{keyspace.CONFIG}/") else key
