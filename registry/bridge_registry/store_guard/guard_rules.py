"""What a node may ask of the store: one decision a request, nothing else is let through. Pure.

Rules:
1. The caller is a node of this mesh by its certificate, which is not revoked, and enrolled.
2. A lease is the node's own when the guard granted it to that node: `leases/<id>`, put under the lease
   itself, says so to every guard. Nobody else's can be renewed, revoked or written under.
3. A write is a flat transaction without conditions: puts under an own lease, and deletes, of single
   keys `members/<node>/<n>`. Anything nested, ranged or conditional is refused, not repaired.
4. What is forwarded is built anew from what was decided on: no field that was not looked at travels.
5. Every write carries the guard's own conditions (node enrolled, certificate not revoked), so that the
   store itself refuses a node whose revocation the guard has not heard of yet.
6. A read is of the node's own records as they are now.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from enum import Enum
from typing import Final, Protocol, TypeAlias

import msgspec

from bridge_core import keyspace
from bridge_core.store.convert import key_range
from bridge_core.tls import Peer
from bridge_wire.etcd.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseKeepAliveRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    StatusRequest,
    TxnRequest,
)

MAX_TTL_S: Final = 300  # a Mesh document's longest leaseTtl
MAX_LEASES: Final = 8  # of one node at a time: an agent that restarts leaves one behind for its TTL
MAX_INSTANCES: Final = 256  # of one node; bounds its keys
MAX_VALUE_BYTES: Final = 128 * 1024
MAX_OPS: Final = 126  # etcd's default of 128 operations, less the conditions

Request: TypeAlias = (
    TxnRequest | RangeRequest | LeaseGrantRequest | LeaseKeepAliveRequest | LeaseRevokeRequest | StatusRequest
)


class Reason(Enum):
    """Why a request is refused: a metric's label."""

    NO_IDENTITY = "no_identity"
    NOT_A_NODE = "not_a_node"
    OTHER_MESH = "other_mesh"
    REVOKED = "revoked"
    NOT_ENROLLED = "not_enrolled"
    UNKNOWN_METHOD = "unknown_method"
    MALFORMED = "malformed"
    NESTED = "nested"
    CONDITIONAL = "conditional"
    FOREIGN_KEY = "foreign_key"
    FOREIGN_LEASE = "foreign_lease"
    LEASE_GONE = "lease_gone"
    OUT_OF_BOUNDS = "out_of_bounds"
    TOO_OFTEN = "too_often"


class Allowed(msgspec.Struct, frozen=True):
    """What to send on to etcd for `node`."""

    node: str
    request: Request


class Refused(msgspec.Struct, frozen=True):
    """Nothing is sent on; `words` are for whoever asked."""

    reason: Reason
    words: str


class MeshState(Protocol):
    """What the guard knows of the mesh; see `guard_table`."""

    @property
    def nodes(self) -> Mapping[str, str]:
        """State of each enrolled node by its name."""

    @property
    def leases(self) -> Mapping[int, str]:
        """The node that each live lease was granted to."""

    def is_revoked(self, serial: str) -> bool:
        """Whether the certificate of this serial is no longer accepted."""

    def leases_of(self, node: str) -> int:
        """How many live leases were granted to `node`."""


class LookedUp:
    """`state` with one more lease, which the store was asked for ahead of its event."""

    def __init__(self, state: MeshState, lease: int, node: str) -> None:
        self._state = state
        self.nodes = state.nodes
        self.leases = ChainMap({lease: node}, dict(state.leases))

    def is_revoked(self, serial: str) -> bool:
        """See `MeshState`."""
        return self._state.is_revoked(serial)

    def leases_of(self, node: str) -> int:
        """See `MeshState`."""
        return self._state.leases_of(node)


def admit(peer: Peer | None, trust_domain: str, state: MeshState) -> str | Refused:
    """The name of the node that `peer` is (rule 1), or why it is none that may ask."""
    if peer is None:
        return Refused(Reason.NO_IDENTITY, "the store guard needs a node's certificate")
    identity = peer.identity
    if identity.trust_domain != trust_domain:
        return Refused(Reason.OTHER_MESH, f"{identity} is not of the mesh {trust_domain}")
    if identity.kind != "node":
        return Refused(Reason.NOT_A_NODE, f"the store is for nodes, not for {identity}")
    if state.is_revoked(peer.serial) or state.nodes.get(identity.name) == "revoked":
        return Refused(Reason.REVOKED, f"the certificate of {identity.name} was revoked")
    if identity.name not in state.nodes:
        return Refused(Reason.NOT_ENROLLED, f"{identity.name} is not a node of this mesh any more")
    return identity.name


def decide(peer: Peer | None, request: Request, trust_domain: str, state: MeshState) -> Allowed | Refused:
    """Whether `request` is let through, and as what."""
    node = admit(peer, trust_domain, state)
    if isinstance(node, Refused) or peer is None:
        return node if isinstance(node, Refused) else Refused(Reason.NO_IDENTITY, "")
    match request:
        case TxnRequest():
            verdict: Request | Refused = _transaction(node, peer.serial, request, state)
        case RangeRequest():
            verdict = _read(node, request)
        case LeaseGrantRequest():
            verdict = _grant(node, request, state)
        case LeaseKeepAliveRequest() | LeaseRevokeRequest():
            fault = _lease_fault(node, request.ID, state)
            verdict = fault if fault is not None else type(request)(ID=request.ID)
        case StatusRequest():
            verdict = StatusRequest()
    return verdict if isinstance(verdict, Refused) else Allowed(node, verdict)


def conditions(node: str, serial: str) -> list[Compare]:
    """What the store has to find for a write of this node's (rule 5)."""
    return [
        Compare(
            key=(keyspace.REVOKED + serial).encode(),
            target=Compare.VERSION,
            result=Compare.EQUAL,
            version=0,
        ),
        Compare(
            key=(keyspace.NODES + node).encode(),
            target=Compare.VERSION,
            result=Compare.GREATER,
            version=0,
        ),
    ]


def owned(node: str, serial: str, lease: int) -> TxnRequest:
    """The write that notes a lease, just granted, as the node's (rule 2)."""
    put = PutRequest(key=lease_key(lease).encode(), value=node.encode(), lease=lease)
    return TxnRequest(compare=conditions(node, serial), success=[RequestOp(request_put=put)])


def lease_key(lease: int) -> str:
    """Where it is noted whose a lease is."""
    return f"{keyspace.LEASES}{lease:016x}"


def named_lease(request: Request) -> int:
    """The lease that a request is about; 0: none."""
    match request:
        case LeaseKeepAliveRequest() | LeaseRevokeRequest():
            return request.ID
        case TxnRequest():
            return next((op.request_put.lease for op in request.success if op.HasField("request_put")), 0)
    return 0


def _transaction(node: str, serial: str, request: TxnRequest, state: MeshState) -> TxnRequest | Refused:
    if request.compare or request.failure:
        return Refused(Reason.CONDITIONAL, "a node's write has no conditions")
    if not 0 < len(request.success) <= MAX_OPS:
        return Refused(Reason.OUT_OF_BOUNDS, f"a write has 1 to {MAX_OPS} operations")
    ops: list[RequestOp] = []
    for op in request.success:
        match op.WhichOneof("request"):
            case "request_put":
                checked = _put(node, op.request_put, state)
            case "request_delete_range":
                checked = _delete(node, op.request_delete_range)
            case "request_txn":
                return Refused(Reason.NESTED, "transactions inside a transaction are not let through")
            case _:
                return Refused(Reason.MALFORMED, "a write puts and deletes, nothing else")
        if isinstance(checked, Refused):
            return checked
        ops.append(checked)
    return TxnRequest(compare=conditions(node, serial), success=ops)


def _put(node: str, put: PutRequest, state: MeshState) -> RequestOp | Refused:
    if put.prev_kv or put.ignore_value or put.ignore_lease:
        return Refused(Reason.MALFORMED, "a put has a key, a value and a lease")
    if not is_record(node, put.key):
        return Refused(Reason.FOREIGN_KEY, f"{_shown(put.key)} is not a record of {node}")
    if len(put.value) > MAX_VALUE_BYTES:
        return Refused(Reason.OUT_OF_BOUNDS, f"a record has at most {MAX_VALUE_BYTES} bytes")
    fault = _lease_fault(node, put.lease, state)
    if fault is not None:
        return fault
    return RequestOp(request_put=PutRequest(key=put.key, value=put.value, lease=put.lease))


def _delete(node: str, delete: DeleteRangeRequest) -> RequestOp | Refused:
    if delete.range_end or delete.prev_kv:
        return Refused(Reason.MALFORMED, "records are deleted one by one")
    if not is_record(node, delete.key):
        return Refused(Reason.FOREIGN_KEY, f"{_shown(delete.key)} is not a record of {node}")
    return RequestOp(request_delete_range=DeleteRangeRequest(key=delete.key))


def _read(node: str, request: RangeRequest) -> RangeRequest | Refused:
    start, end = key_range(keyspace.members_of(node))
    if request.revision:
        return Refused(Reason.MALFORMED, "records are read as they are now")
    inside = start <= request.key < end and (not request.range_end or request.key < request.range_end <= end)
    if not inside:
        return Refused(Reason.FOREIGN_KEY, f"{_shown(request.key)} is not a record of {node}")
    return RangeRequest(
        key=request.key,
        range_end=request.range_end,
        limit=max(0, request.limit),
        keys_only=request.keys_only,
        count_only=request.count_only,
    )


def _grant(node: str, request: LeaseGrantRequest, state: MeshState) -> LeaseGrantRequest | Refused:
    if request.ID:
        return Refused(Reason.MALFORMED, "the store chooses the lease's id")
    if not 1 <= request.TTL <= MAX_TTL_S:
        return Refused(Reason.OUT_OF_BOUNDS, f"a lease lasts 1 to {MAX_TTL_S} s")
    if state.leases_of(node) >= MAX_LEASES:
        return Refused(Reason.OUT_OF_BOUNDS, f"{node} has {MAX_LEASES} leases already")
    return LeaseGrantRequest(TTL=request.TTL)


def _lease_fault(node: str, lease: int, state: MeshState) -> Refused | None:
    if not lease:
        return Refused(Reason.FOREIGN_LEASE, "a record is put under a lease")
    owner = state.leases.get(lease)
    if owner is None:
        return Refused(Reason.LEASE_GONE, "etcdserver: requested lease not found")
    if owner != node:
        return Refused(Reason.FOREIGN_LEASE, f"the lease is not one of {node}")
    return None


def is_record(node: str, key: bytes) -> bool:
    """Whether `key` is `members/<node>/<n>` with a number in its one spelling."""
    prefix = keyspace.members_of(node).encode()
    number = key[len(prefix) :]
    if not key.startswith(prefix) or not 1 <= len(number) <= 3 or not number.isdigit():
        return False
    return int(number) < MAX_INSTANCES and str(int(number)).encode() == number


def _shown(key: bytes) -> str:
    return repr(key[:80])[1:]
