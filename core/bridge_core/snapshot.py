"""The mesh as every decision sees it: one immutable, versioned value.

Rules:
1. A snapshot is a mapping from entry keys to JSON documents; `Snapshot.entries` is the truth and
   everything else in it is derived from that alone.
2. Versions only go up: by epoch (the registry's leadership), then by revision (etcd's).
3. What is from another store is refused, whatever its version, unless an admin made that one the mesh's
   by a restore: a store that was lost has no say over what was in it.
4. A delta names the version it changes; applied to any other base it is refused, and so is one
   whose result does not have the digest that was published with it. The old snapshot stays.

Keys: "mesh", "node/<name>", "instance/<node>/<n>", "route/<name>", "nodeclass/<name>",
"probe/<rollout>/<side>", "client/<name>", "admin/<name>", "policy/<name>", "quota/<name>",
"provider/<name>", "holders/<policy>", "verdict/<node>/<n>", "signature/<policy>".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec

from bridge_core.bounds import (
    MAX_ENTRIES,
    MAX_LOADING,
    MAX_MODELS,
    MAX_REASON,
    MAX_RING_POINTS,
    Count,
    Labels,
    Moment,
    Name,
    Names,
    Places,
    RingPoints,
    Seconds,
    Slots,
    Text,
    Weight,
    Word,
    Words,
)
from bridge_core.clients import Admin, Client
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError, Reaction
from bridge_core.holders import ModelHolders
from bridge_core.model_signing.policies import ModelSignaturePolicy
from bridge_core.node_class import NodeClass
from bridge_core.policy.statements import AccessPolicy
from bridge_core.probe import Probe
from bridge_core.providers import IdentityProvider
from bridge_core.quotas import Quota
from bridge_core.security_settings import AuditSettings, SecuritySettings, Trust
from bridge_core.traffic import Backend, Route, RoutePolicy
from bridge_core.verdicts import Verdict

__all__ = [
    "EMPTY",
    "MESH_KEY",
    "Backend",
    "Delta",
    "Instance",
    "LoadingModel",
    "MemberModel",
    "MeshConfig",
    "ModelDetails",
    "Node",
    "Route",
    "RoutePolicy",
    "SignedModel",
    "Snapshot",
    "SnapshotRejected",
    "Version",
    "WithheldModel",
    "apply",
    "check_entry",
    "diff",
    "encode_entry",
    "whole",
]

T = TypeVar("T")


class Version(msgspec.Struct, frozen=True, order=True):
    """A snapshot's place in time; compares by epoch, then revision."""

    epoch: int = 0
    revision: int = 0


class ModelDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ollama's `details` object of a model."""

    parent_model: Name = ""
    format: Word = ""
    family: Text = ""
    families: Words | None = None
    parameter_size: Text = ""
    quantization_level: Text = ""
    context_length: Count = 0
    embedding_length: Count = 0


class MemberModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model on an instance's disk, as its engine's /api/tags lists it."""

    name: Name
    digest: Text = ""
    size: Count = 0
    modified_at: Word = ""
    details: ModelDetails = ModelDetails()
    capabilities: Words = ()


class LoadingModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model that an instance is bringing into its memory.

    Attributes:
        name: As in the instance's `models`.
        since_unix: When that began, by its node's clock.
        expected_s: How long it is expected to take in all, by what earlier loads took; 0: nobody knows.
    """

    name: Name
    since_unix: Moment = 0.0
    expected_s: Seconds = 0.0

    def progress(self, now_unix: float) -> float:
        """How far it is, as far as can be told, between 0 and 1; never 1 while it is not there."""
        if self.expected_s <= 0.0:
            return 0.0
        return min(0.99, max(0.0, (now_unix - self.since_unix) / self.expected_s))

    def rest_s(self, now_unix: float) -> float:
        """Seconds until it is there, as far as can be told; 0: nobody knows."""
        return max(0.0, self.expected_s - max(0.0, now_unix - self.since_unix))


class WithheldModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model on a node's disk that it does not serve, because a ModelSignaturePolicy refuses it.

    Attributes:
        name: As the instance's engine lists it.
        digest: Likewise.
        why: What is missing, and what to do.
    """

    name: Name
    digest: Text = ""
    why: Annotated[str, msgspec.Meta(max_length=MAX_REASON)] = ""


class SignedModel(msgspec.Struct, frozen=True, omit_defaults=True):
    """A model whose signature its node has checked, and whose that is: each as "signer (policy)"."""

    name: Name
    by: Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)] = ()


HolderId = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{16})?$", max_length=16)]


class Instance(msgspec.Struct, frozen=True, omit_defaults=True):
    """One engine process: the unit of a lease and of the ring.

    Written by its agent under /bridge/v1/members/<node>/<n>; gone when the lease is.
    """

    id: Text  # "<node>/<n>"
    node: Word
    engine: Word = "llamacpp"  # or "ollama"
    state: Word = "ready"  # "starting", "ready", "draining"
    slots: Slots = 1
    weight: Weight = 100
    models: Annotated[tuple[MemberModel, ...], msgspec.Meta(max_length=MAX_MODELS)] = ()
    loaded: Names = ()  # names resident in memory
    loading: Annotated[tuple[LoadingModel, ...], msgspec.Meta(max_length=MAX_LOADING)] = ()
    warm: Names = ()  # names whose files lie in its node's page cache
    sealed: Names = ()  # names of which every blob lies sealed on its node's disk
    withheld: Annotated[tuple[WithheldModel, ...], msgspec.Meta(max_length=MAX_MODELS)] = ()
    signed: Annotated[tuple[SignedModel, ...], msgspec.Meta(max_length=MAX_MODELS)] = ()
    failure_domain: Text = ""  # instances that die together; empty: the node
    holder: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{16})?$", max_length=16)] = (
        ""  # the agent that wrote this, told apart from another on a copy of its state folder
    )


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """An enrolled machine."""

    name: Word
    peer: Name = ""  # host:port of its peer listener
    state: Word = "active"  # "active", "drained", "revoked"
    labels: Labels = {}
    serial: Word = ""  # hex serial of its current certificate


class MeshConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """Mesh-wide settings: what the Mesh document becomes."""

    trust_domain: Text = "bridge.local"
    lease_ttl_s: Seconds = 5.0
    ring_points: RingPoints = 160  # points of an instance of weight 100
    certificate_ttl_s: Seconds = 86_400.0
    revoked_serials: Annotated[
        tuple[Word, ...], msgspec.Meta(max_length=MAX_ENTRIES)
    ] = ()  # hex serials that no agent accepts
    defaults: RoutePolicy = RoutePolicy()  # for requests that no route names
    store_id: Word = ""  # of the store that all this is from
    registries: Places = ()  # host:port of those that live
    guards: Places = ()  # https://host:port of the store guards beside them
    security: SecuritySettings = SecuritySettings()
    audit: AuditSettings = AuditSettings()
    trust: Trust = Trust()

    @property
    def bounded_load(self) -> float:
        """ε of the ring's bounded load where no route says otherwise."""
        return self.defaults.bounded_load


class SnapshotRejected(BridgeError):
    """An update that cannot be applied; a full one should be asked for."""

    reaction = Reaction.RETRY


MESH_KEY: Final = "mesh"
GENERATION_BITS: Final = 48  # an epoch's low bits; those above count how often the store was restored


class Snapshot:
    """An immutable view of the mesh.

    Attributes:
        version: Its place in time.
        entries: Entry key to the JSON that was published.
    """

    def __init__(
        self, version: Version, entries: Mapping[str, bytes], before: Snapshot | None = None
    ) -> None:
        """Of a snapshot `before` it, what is the same is not decoded again."""
        self.version = version
        self.entries = dict(entries)
        self._decoded: dict[str, tuple[bytes, Any]] = {}
        if before is not None:
            known = before._decoded  # noqa: SLF001 - another of this class
            self._decoded = {key: known[key] for key in self.entries if key in known}

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over every key and document, in key order, each with its length before it."""
        digest = hashlib.sha256()
        for key in sorted(self.entries):
            name, value = key.encode(), self.entries[key]
            digest.update(len(name).to_bytes(4, "big") + name)
            digest.update(len(value).to_bytes(4, "big") + value)
        return digest.digest()

    @cached_property
    def mesh(self) -> MeshConfig:
        """The mesh's settings; the defaults until a Mesh document was applied."""
        raw = self.entries.get(MESH_KEY)
        return MeshConfig() if raw is None else _decode(MESH_KEY, raw, MeshConfig)

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """Enrolled nodes by name."""
        return {node.name: node for node in self._section("node/", Node)}

    @cached_property
    def active_nodes(self) -> tuple[str, ...]:
        """Names of the nodes that work, sorted."""
        return tuple(sorted(name for name, node in self.nodes.items() if node.state == "active"))

    @cached_property
    def instances(self) -> dict[str, Instance]:
        """Leased instances by id."""
        return {instance.id: instance for instance in self._section("instance/", Instance)}

    @cached_property
    def node_of(self) -> dict[str, str]:
        """The instances' nodes, by instance."""
        return {id_: one.node for id_, one in self.instances.items()}

    @cached_property
    def instances_of(self) -> dict[str, frozenset[str]]:
        """The instances' ids by node, of nodes that have any."""
        found: dict[str, set[str]] = {}
        for id_, one in self.instances.items():
            found.setdefault(one.node, set()).add(id_)
        return {node: frozenset(ids) for node, ids in found.items()}

    @cached_property
    def routes(self) -> dict[str, Route]:
        """Routes by name as written."""
        return {route.name: route for route in self._section("route/", Route)}

    @cached_property
    def node_classes(self) -> dict[str, NodeClass]:
        """Node classes by name."""
        return {one.name: one for one in self._section("nodeclass/", NodeClass)}

    @cached_property
    def probes(self) -> tuple[Probe, ...]:
        """What running rollouts ask of agents."""
        return tuple(self._section("probe/", Probe))

    @cached_property
    def clients(self) -> dict[str, Client]:
        """Clients by name."""
        return {one.name: one for one in self._section("client/", Client)}

    @cached_property
    def admins(self) -> dict[str, Admin]:
        """Admins by name."""
        return {one.name: one for one in self._section("admin/", Admin)}

    @cached_property
    def policies(self) -> tuple[AccessPolicy, ...]:
        """Access policies, by name."""
        return tuple(self._section("policy/", AccessPolicy))

    @cached_property
    def signature_policies(self) -> tuple[ModelSignaturePolicy, ...]:
        """Which models have to be signed, by the policies' names."""
        return tuple(self._section("signature/", ModelSignaturePolicy))

    @cached_property
    def quotas(self) -> tuple[Quota, ...]:
        """Quotas, by name."""
        return tuple(self._section("quota/", Quota))

    @cached_property
    def providers(self) -> tuple[IdentityProvider, ...]:
        """Issuers of tokens that the mesh believes, by name."""
        return tuple(self._section("provider/", IdentityProvider))

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """What there is to say against instances, by their ids; who is well is not among them."""
        return {one.instance: one for one in self._section("verdict/", Verdict)}

    @cached_property
    def holders(self) -> tuple[ModelHolders, ...]:
        """Where models that are scaled are to be, by policy."""
        return tuple(self._section("holders/", ModelHolders))

    def _section(self, prefix: str, kind: type[T]) -> Iterable[T]:
        return [self._document(key, kind) for key in self._keys.get(prefix, ())]

    @cached_property
    def _keys(self) -> dict[str, list[str]]:
        """The keys of each section, in order, by its prefix."""
        found: dict[str, list[str]] = {}
        for key in sorted(self.entries):
            kind, slash, _ = key.partition("/")
            found.setdefault(kind + slash, []).append(key)
        return found

    def _document(self, key: str, kind: type[T]) -> T:
        raw, known = self.entries[key], self._decoded.get(key)
        if known is None or known[0] is not raw:
            known = self._decoded[key] = raw, _decode(key, raw, kind)
        found: T = known[1]
        return found


EMPTY: Final = Snapshot(Version(), {})


class Delta(msgspec.Struct, frozen=True):
    """A change from `base` to `version`; a `base` of None makes it a whole snapshot."""

    version: Version
    base: Version | None
    changed: dict[str, bytes]
    removed: tuple[str, ...]
    digest: bytes


Entry: TypeAlias = (
    Node
    | Instance
    | Route
    | MeshConfig
    | NodeClass
    | Probe
    | Client
    | Admin
    | AccessPolicy
    | ModelSignaturePolicy
    | Quota
    | IdentityProvider
    | Verdict
    | ModelHolders
)


def encode_entry(document: Entry) -> bytes:
    """The JSON of an entry, with keys in declaration order so that equal values are equal bytes."""
    return msgspec.json.encode(document, order="sorted")


def whole(snapshot: Snapshot) -> Delta:
    """The delta that makes `snapshot` out of anything."""
    return Delta(snapshot.version, None, dict(snapshot.entries), (), snapshot.digest)


def diff(old: Snapshot, new: Snapshot) -> Delta:
    """The delta that makes `new` out of `old`."""
    changed = {key: value for key, value in new.entries.items() if old.entries.get(key) != value}
    removed = tuple(sorted(old.entries.keys() - new.entries.keys()))
    return Delta(new.version, old.version, changed, removed, new.digest)


def apply(current: Snapshot, delta: Delta) -> Snapshot:
    """The snapshot after `delta`.

    Raises:
        SnapshotRejected: the base is not `current`, the version does not go up, the digest of
            the result differs from the published one, an entry does not decode or is out of bounds, or
            there are too many of them.
    """
    if delta.base is not None and delta.base != current.version:
        raise SnapshotRejected(f"update changes snapshot {delta.base}, this agent has {current.version}")
    if delta.version < current.version:
        raise SnapshotRejected(f"update goes back from snapshot {current.version} to {delta.version}")
    entries = {} if delta.base is None else dict(current.entries)
    for key in delta.removed:
        entries.pop(key, None)
    entries.update(delta.changed)
    result = Snapshot(delta.version, entries, None if delta.base is None else current)
    if result.digest != delta.digest:
        raise SnapshotRejected(f"digest of snapshot {delta.version} differs from the published one")
    if _of_another_store(current, result):
        raise SnapshotRejected(
            f"snapshot {delta.version} is of the store {result.mesh.store_id or 'without a name'}, "
            f"not of {current.mesh.store_id}"
        )
    if len(entries) > MAX_ENTRIES:
        raise SnapshotRejected(
            f"snapshot {delta.version} has {len(entries)} entries, {MAX_ENTRIES} are taken"
        )
    _ = result.mesh, result.nodes, result.instances, result.routes, result.node_classes, result.probes
    _ = result.verdicts, result.signature_policies
    _ = result.clients, result.admins, result.policies, result.quotas, result.providers, result.holders
    points = result.mesh.ring_points * sum(one.weight for one in result.instances.values()) // 100
    if points > MAX_RING_POINTS:
        raise SnapshotRejected(f"the ring of snapshot {delta.version} would have {points} points")
    return result


def _of_another_store(current: Snapshot, new: Snapshot) -> bool:
    restored = new.version.epoch >> GENERATION_BITS > current.version.epoch >> GENERATION_BITS
    known = current.mesh.store_id
    return bool(known) and new.mesh.store_id != known and not restored


_KINDS: Final[dict[str, type[msgspec.Struct]]] = {
    "node": Node,
    "instance": Instance,
    "route": Route,
    "nodeclass": NodeClass,
    "probe": Probe,
    "client": Client,
    "admin": Admin,
    "policy": AccessPolicy,
    "signature": ModelSignaturePolicy,
    "quota": Quota,
    "provider": IdentityProvider,
    "verdict": Verdict,
    "holders": ModelHolders,
    MESH_KEY: MeshConfig,
}


def check_entry(key: str, raw: bytes) -> None:
    """Returns when every agent can take this entry.

    Raises:
        SnapshotRejected: it does not decode or is out of bounds.
    """
    kind = _KINDS.get(key.partition("/")[0])
    if kind is not None:
        _decode(key, raw, kind)


def _decode(key: str, raw: bytes, kind: type[T]) -> T:
    try:
        return decode_json(raw, kind)
    except Undecodable as fault:
        raise SnapshotRejected(f"snapshot entry {key} does not decode: {fault.message}") from fault
