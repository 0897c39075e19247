"""What the guard knows of the mesh, reduced from the store's watch events. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from bridge_core import keyspace
from bridge_core.store.api import Deleted, KeyListing, WatchEvent

PREFIXES: Final = (keyspace.NODES, keyspace.REVOKED, keyspace.LEASES)


class _NodeState(msgspec.Struct, frozen=True):
    state: str = "active"


class GuardTable:
    """Enrolled nodes, revoked certificates, and whose each lease is. One task owns and feeds it.

    Attributes:
        nodes: State of each enrolled node by its name; "revoked" also where its record does not decode.
        leases: The node that each live lease was granted to.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}
        self.leases: dict[int, str] = {}
        self._revoked: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._listed: set[str] = set()

    @property
    def whole(self) -> bool:
        """Whether everything was listed once; before, nothing can be decided."""
        return self._listed.issuperset(PREFIXES)

    @property
    def revoked(self) -> int:
        """How many certificates are revoked."""
        return len(self._revoked)

    def is_revoked(self, serial: str) -> bool:
        """See `guard_rules.MeshState`."""
        return serial in self._revoked

    def leases_of(self, node: str) -> int:
        """See `guard_rules.MeshState`."""
        return self._counts[node]

    def apply(self, prefix: str, event: WatchEvent) -> None:
        """Takes in one event of the watch of `prefix`."""
        if isinstance(event, KeyListing):
            present = {item.key for item in event.items}
            for key in [key for key in self._keys(prefix) if key not in present]:
                self._drop(key)
            for item in event.items:
                self._put(item.key, item.value)
            self._listed.add(prefix)
            return
        for change in event.events:
            if isinstance(change, Deleted):
                self._drop(change.key)
            else:
                self._put(change.key, change.value)

    def _keys(self, prefix: str) -> list[str]:
        if prefix == keyspace.NODES:
            return [prefix + name for name in self.nodes]
        if prefix == keyspace.REVOKED:
            return [prefix + serial for serial in self._revoked]
        return [f"{prefix}{lease:016x}" for lease in self.leases]

    def _put(self, key: str, value: bytes) -> None:
        if key.startswith(keyspace.NODES):
            self.nodes[key.removeprefix(keyspace.NODES)] = _state(value)
        elif key.startswith(keyspace.REVOKED):
            self._revoked.add(key.removeprefix(keyspace.REVOKED))
        elif (lease := _lease(key)) is not None:
            self._forget_lease(lease)
            node = self.leases[lease] = value.decode("utf-8", "replace")
            self._counts[node] += 1

    def _drop(self, key: str) -> None:
        if key.startswith(keyspace.NODES):
            self.nodes.pop(key.removeprefix(keyspace.NODES), None)
        elif key.startswith(keyspace.REVOKED):
            self._revoked.discard(key.removeprefix(keyspace.REVOKED))
        elif (lease := _lease(key)) is not None:
            self._forget_lease(lease)

    def _forget_lease(self, lease: int) -> None:
        node = self.leases.pop(lease, None)
        if node is not None:
            self._counts[node] -= 1
            if not self._counts[node]:
                del self._counts[node]


def _state(value: bytes) -> str:
    try:
        return msgspec.json.decode(value, type=_NodeState).state
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "revoked"  # nobody is let in on a record that cannot be read


def _lease(key: str) -> int | None:
    number = key.removeprefix(keyspace.LEASES)
    try:
        return int(number, 16) if len(number) == 16 else None
    except ValueError:
        return None
