"""Whom the present snapshot refuses; takes effect on open connections too.

A certificate is refused for what stands in the snapshot about its serial or its node; a client or an admin
that the snapshot does not have is refused by whoever looks it up, and here only its connections are ended.
"""

from __future__ import annotations

from ssl import SSLObject

from bridge_core.identity import SpiffeId
from bridge_core.identity.spiffe import IdentityFault
from bridge_core.snapshot import EMPTY, Snapshot
from bridge_core.tls import certified, peer

_MOST_SEEN = 65_536


class Revocations:
    """What is revoked now, and which identities came with which certificate."""

    def __init__(self, snapshot: Snapshot = EMPTY) -> None:
        self._seen: dict[str, str] = {}  # serial to identity, of connections accepted
        self._serials: frozenset[str] = frozenset()
        self._nodes: frozenset[str] = frozenset()
        self._snapshot = EMPTY
        self.update(snapshot)

    def update(self, snapshot: Snapshot) -> frozenset[str]:
        """Takes over a snapshot; the identities whose open connections must be cut now."""
        serials = frozenset(snapshot.mesh.revoked_serials)
        nodes = frozenset(node.name for node in snapshot.nodes.values() if node.state == "revoked")
        cut = {self._seen[serial] for serial in serials - self._serials if serial in self._seen}
        cut |= {identity for identity in set(self._seen.values()) if _node(identity) in nodes - self._nodes}
        cut |= _ended(self._snapshot, snapshot)
        self._serials, self._nodes, self._snapshot = serials, nodes, snapshot
        return frozenset(cut)

    def admits(self, identity: str, serial: str) -> bool:
        """Whether the holder of this certificate may connect."""
        return serial not in self._serials and _node(identity) not in self._nodes

    def identify(self, ssl_object: SSLObject) -> str | None:
        """The identity at the other end of a connection; None without one, or when it is revoked."""
        found = peer(ssl_object)
        if found is None:
            return None
        identity = certified(found, ssl_object)
        if not self.admits(identity, found.serial):
            return None
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()  # of connections long gone, most of it
        self._seen[found.serial] = str(identity)
        return identity


def _ended(before: Snapshot, after: Snapshot) -> set[str]:
    """Clients that were blocked or deleted between two snapshots, and admins that were deleted."""
    clients, admins = after.clients, after.admins
    found = {
        ("client", name)
        for name, one in before.clients.items()
        if not one.blocked and (name not in clients or clients[name].blocked)
    }
    found |= {("admin", name) for name in before.admins if name not in admins}
    return {str(SpiffeId(before.mesh.trust_domain, *one)) for one in found}


def _node(identity: str) -> str | None:
    try:
        parsed = SpiffeId.parse(identity)
    except IdentityFault:
        return None
    return parsed.name if parsed.kind == "node" else None
