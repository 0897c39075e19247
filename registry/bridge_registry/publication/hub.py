"""The published snapshots, newest first, and whoever waits for the next."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import msgspec

from bridge_core.ring import Ring, ring_of
from bridge_core.snapshot import Delta, Snapshot, Version, diff, whole

KEPT: Final = 32  # snapshots that deltas can start from; they share their entries


class Acknowledgement(msgspec.Struct, frozen=True):
    """What a node's agent last said."""

    have: Version | None
    rejected: str = ""


class Hub:
    """Hands out snapshots. Owned by the publisher; streams only read.

    Args:
        last: What was published before; empty when nothing was.

    Attributes:
        acknowledged: What each connected node last said.
        closed: Set once no stream is to go on.
        secrets: What agents are told beside the snapshot, by name; replaced as a whole.
    """

    def __init__(self, last: Snapshot) -> None:
        self._kept: OrderedDict[Version, Snapshot] = OrderedDict()
        self._deltas: dict[Version | None, Delta] = {}
        self._changed = asyncio.Event()
        self._ring: tuple[frozenset[tuple[str, int]], int, Ring] | None = None
        self.acknowledged: dict[str, Acknowledgement] = {}
        self.closed = False
        self.secrets: Mapping[str, bytes] = {}
        self.current = last
        self.ring_digest = b""
        self._keep(last)

    @property
    def known(self) -> OrderedDict[Version, Snapshot]:
        """Snapshots that deltas can start from, by version."""
        return self._kept

    def publish(self, snapshot: Snapshot) -> None:
        """Makes `snapshot` the current one and wakes every stream."""
        self._keep(snapshot)
        self._wake()

    def tell(self, secrets: Mapping[str, bytes]) -> None:
        """Has every agent told these secrets."""
        self.secrets = secrets
        self._wake()

    def close(self) -> None:
        """Ends every stream."""
        self.closed = True
        self._wake()

    def delta(self, base: Version | None) -> Delta:
        """The update that makes the current snapshot out of `base`; shared by all who ask for it."""
        found = self._deltas.get(base)
        if found is None:
            found = whole(self.current) if base is None else diff(self._kept[base], self.current)
            self._deltas[base] = found
        return found

    @property
    def next_change(self) -> asyncio.Event:
        """Set at the next publication. Taken before the state is read, it cannot miss one."""
        return self._changed

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _keep(self, snapshot: Snapshot) -> None:
        self.current = snapshot
        self._deltas = {}
        self._kept[snapshot.version] = snapshot
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        self.ring_digest = self._ring_for(snapshot).digest

    def _ring_for(self, snapshot: Snapshot) -> Ring:
        # Most changes are to what an instance has loaded and leave the ring as it is.
        shape = frozenset((instance.id, instance.weight) for instance in snapshot.instances.values())
        points = snapshot.mesh.ring_points
        if self._ring is None or self._ring[:2] != (shape, points):
            self._ring = (shape, points, ring_of(snapshot))
        return self._ring[2]
